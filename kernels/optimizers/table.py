"""Where the numbers of many tensors lie: the table that native code and kernels walk through."""

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMNS = ("parameter", "grad", "first", "second", "teacher", "copy", "teacher copy", "size", "group", "matrix")


def table(parameters: Sequence[Tensor], others: Sequence[Sequence[Tensor]], groups: Sequence[int]) -> Tensor:
    """int64 [tensors, COLUMNS]: addresses, 0 where there is none, then size, row of hyper, whether it is a matrix.

    `others` are gradients, first and second moments, teachers, copies, and copies of teachers; any may be empty.
    """
    none = [0] * len(parameters)
    columns = [[tensor.data_ptr() for tensor in tensors] or none for tensors in (parameters, *others)]
    sizes = [parameter.numel() for parameter in parameters]
    matrix = [int(parameter.ndim > 1) for parameter in parameters]
    return torch.tensor([*columns, sizes, list(groups) or none, matrix]).T.contiguous()
