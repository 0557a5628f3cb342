"""A mask as bits: bit x % 32 of word x // 32 in a row says whether pixel x is covered."""

import torch
from torch import Tensor
from torch.nn.functional import pad

WORD = 32


def words(width: int) -> int:
    """That a row of so many pixels takes."""
    return -(-width // WORD)


def pack(mask: Tensor) -> Tensor:
    """bool [B, H, W] -> int32 [B, H, ceil(W / 32)]

    >>> pack(torch.tensor([[[True, False, True] + [False] * 30]])).tolist()
    [[[5, 0]]]
    """
    count = words(mask.shape[-1])
    filled = pad(mask, (0, count * WORD - mask.shape[-1])).view(*mask.shape[:-1], count, WORD)
    bit = torch.arange(WORD, dtype=torch.int32, device=mask.device)
    return (filled.to(torch.int32) << bit).sum(-1, dtype=torch.int32)


def unpack(bitmap: Tensor, width: int) -> Tensor:
    """int32 [B, H, ceil(W / 32)] -> bool [B, H, W]

    >>> unpack(torch.tensor([[[5]]], dtype=torch.int32), 4).tolist()
    [[[True, False, True, False]]]
    """
    bit = torch.arange(WORD, dtype=torch.int32, device=bitmap.device)
    return ((bitmap[..., None] >> bit) & 1).flatten(-2)[..., :width].bool()


def pixels(mask: Tensor, width: int) -> Tensor:
    """A mask of either kind as bool [B, H, W]."""
    return mask if mask.dtype == torch.bool else unpack(mask, width)
