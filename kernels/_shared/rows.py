"""The sum of the rows that share an index, in an order that does not change: gradients of tables."""

import torch
from torch import Tensor


def sum_rows(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """out[i] = the sum of rows[t] over index[t] = i, in fp32 or fp64; rows [T, D], index [T] -> [count, D]

    >>> sum_rows(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 3).flatten().tolist()
    [2.0, 0.0, 5.0]
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    out = rows.new_zeros(count, rows.shape[1])
    if rows.device.type == "cpu":
        return out.index_add_(0, index, rows)
    # On CUDA this sorts the index, where index_add_ adds in any order.
    return out.index_put_((index,), rows, accumulate=True)
