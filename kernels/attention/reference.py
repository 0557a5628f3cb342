"""What attention means, in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def attention(qkv: Tensor, num_heads: int, lengths: Sequence[tuple[int, int]] | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each sequence and head: [B, N, 3*D] -> [B, N, D], packed [T, 3*D] -> [T, D]

    >>> packed = torch.arange(6.0)[:, None].expand(6, 3)
    >>> attention(packed, 1, [(2, 1), (1, 4)])[:2].flatten().tolist()
    [0.0, 1.0]
    """
    if lengths is not None:
        groups = qkv.split([count * length for count, length in lengths])
        sequences = [group.view(*shape, qkv.shape[1]) for group, shape in zip(groups, lengths, strict=True)]
        return torch.cat([attention(group, num_heads).flatten(0, 1) for group in sequences])
    return joined(weighted(*heads(qkv, 3, num_heads)))


def class_attention(query: Tensor, key_value: Tensor, num_heads: int) -> Tensor:
    """The same for the queries of a few rows: [B, M, D] and [B, N, 2*D] -> [B, M, D]"""
    return joined(weighted(*heads(query, 1, num_heads), *heads(key_value, 2, num_heads)))


def weighted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, softmax in fp32; query [B, H, M, d], key and value [B, H, N, d] -> [B, H, M, d]

    >>> one = torch.ones(1, 1, 3, 2)
    >>> weighted(one, one, torch.arange(6.0).view(1, 1, 3, 2)).tolist()
    [[[[2.0, 3.0], [2.0, 3.0], [2.0, 3.0]]]]
    """
    scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(-1, dtype=dtype).to(value.dtype) @ value


def heads(packed: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts * H * d] -> parts of [B, H, N, d]"""
    batch, length, width = packed.shape
    return packed.view(batch, length, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4).unbind(0)


def joined(heads: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, H * d]"""
    return heads.transpose(1, 2).flatten(2)
