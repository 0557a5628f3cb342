"""Images cut into uneven cells, each of which becomes one patch: RelViT's mega-patches (arXiv:2206.00481)."""

from __future__ import annotations

import torch
from torch import Tensor

from vitkiln import kernels

from .resize import Spans, resized

CUTS = 18  # the stream of random numbers; `kernels.uniform`


def merged(images: Tensor, seed: Tensor, ids: Tensor, patch: int, side: int, *, same_axes: bool = False) -> Tensor:
    """Cells of whole patches, `side` along each side, every one resized to a patch: [B, side * patch, .., 3]

    Rows and columns are cut between patches, at side - 1 different places of all that there are, each set of places
    being as likely as another. Of rows and of columns by themselves, or with `same_axes` both alike. The cuts of an
    image are a function of (seed, step, id). images [B, H, H, 3] uint8 or float
    """
    grid = images.shape[1] // patch
    numbers = kernels.uniform(seed, ids, 2 * (grid - 1), CUTS)
    rows, columns = (cells(part, side, patch) for part in numbers.chunk(2, 1))
    return resized(images, rows, rows if same_axes else columns, patch)


def cells(numbers: Tensor, side: int, patch: int) -> Spans:
    """Where cells begin and how long they are, in pixels; the cuts are where the smallest numbers are: [B, side]"""
    cuts = numbers.argsort(stable=True, dim=1)[:, : side - 1].sort(1).values + 1
    ends = torch.nn.functional.pad(cuts, (0, 1), value=numbers.shape[1] + 1) * patch
    starts = torch.nn.functional.pad(cuts, (1, 0)) * patch
    return starts, ends - starts
