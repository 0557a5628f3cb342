"""What attention means, in plain PyTorch."""

import torch
from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, softmax in fp32; query [B, H, M, d], key and value [B, H, N, d] -> [B, H, M, d]

    >>> one = torch.ones(1, 1, 3, 2)
    >>> attention(one, one, torch.arange(6.0).view(1, 1, 3, 2)).tolist()
    [[[[2.0, 3.0], [2.0, 3.0], [2.0, 3.0]]]]
    """
    scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(-1, dtype=dtype).to(value.dtype) @ value
