"""The one seam through which every encoder attends: PyTorch's fused kernels, or the reference when it is forced."""

import torch.nn.functional as F
from torch import Tensor

from .._shared.choice import forced
from . import reference


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each image and head.

    qkv [B, N, 3*D] holds query, key and value side by side, each as num_heads blocks of d = D / num_heads;
    the result is [B, N, D]. ValueError where the last axis is not 3 * num_heads * d.

    >>> import torch
    >>> attention(torch.zeros(2, 5, 3 * 8), num_heads=2).shape
    torch.Size([2, 5, 8])
    """
    heads_of("qkv", qkv, 3, num_heads)
    query, key, value = split(qkv, 3, num_heads)
    return join(attend(query, key, value))


def class_attention(query: Tensor, key_value: Tensor, num_heads: int) -> Tensor:
    """Attention of a few rows (a class token) over all: what a teacher's last block needs, and nothing more.

    query [B, M, D], key_value [B, N, 2*D] -> [B, M, D], equal to the first M rows of `attention`.
    """
    heads_of("query", query, 1, num_heads)
    heads_of("key_value", key_value, 2, num_heads)
    (rows,) = split(query, 1, num_heads)
    key, value = split(key_value, 2, num_heads)
    return join(attend(rows, key, value))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By the implementation that is forced, else by PyTorch's."""
    if forced("attention") == "reference":
        return reference.attention(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def split(packed: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts * H * d] -> parts of [B, H, N, d]"""
    batch, length, width = packed.shape
    return packed.view(batch, length, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4).unbind(0)


def join(heads: Tensor) -> Tensor:
    """[B, H, N, d] -> [B, N, H * d]"""
    return heads.transpose(1, 2).flatten(2)  # [B, H, N, d] -> [B, N, D]


def heads_of(name: str, tensor: Tensor, parts: int, num_heads: int) -> None:
    """ValueError where the last axis does not hold `parts` of so many heads."""
    if tensor.dim() != 3 or tensor.shape[-1] % (parts * num_heads):
        raise ValueError(
            f"{name}: shape {tuple(tensor.shape)}; must be [B, N, D] with D divisible by {parts} * {num_heads} heads"
        )
