"""What can be said of two places of a grid: which is where, how far apart they are, and at what angle they are seen.

RelViT, Camporese et al., arXiv:2206.00481. Tables are in closed form; no loop fills them.
"""

import math

import torch
from torch import Tensor

OFF_PARALLEL = 1e-4  # beside the product of two lengths, as in the published code


def places(side: int) -> tuple[Tensor, Tensor]:
    """Row and column of every patch of a square grid, row by row: int64 [side * side] each

    >>> [axis.tolist() for axis in places(2)]
    [[0, 0, 1, 1], [0, 1, 0, 1]]
    """
    index = torch.arange(side * side)
    return index // side, index % side


def distances(side: int) -> Tensor:
    """2 |p - q| / longest - 1, the longest being the diagonal of the grid: float32 [P, P]

    >>> distances(2)[0].round(decimals=4).tolist()
    [-1.0, 0.4142000079154968, 0.4142000079154968, 1.0]
    """
    spots = torch.stack(places(side), 1).double()
    return (2 * torch.cdist(spots, spots, compute_mode="donot_use_mm_for_euclid_dist") / diagonal(side) - 1).float()


def diagonal(side: int) -> float:
    """From corner to corner."""
    return (side - 1) * math.sqrt(2)


def angles(side: int) -> Tensor:
    """2 a / largest - 1 with a the angle between places, seen from a point outside of the grid: float32 [P, P]

    That point is half a side to the left of the first column and above the first row. The angle of a place with
    itself is 0.

    >>> angles(2)[0].mul(1000).round().int().tolist()
    [-1000, 0, 0, -978]
    """
    spots = torch.stack(places(side), 1).double() + side / 2
    lengths = spots.norm(dim=1)
    raw = torch.acos(spots @ spots.T / (lengths[:, None] * lengths + OFF_PARALLEL))
    raw.fill_diagonal_(0)
    return (2 * raw / raw.max() - 1).float()


def of_pairs(table: Tensor, sources: Tensor) -> Tensor:
    """What a table [P, P] says of patches that come from these places: [B, N] -> [B, N, N]"""
    return table[sources[:, :, None], sources[:, None, :]]


def painted(relations: Tensor, size: int) -> Tensor:
    """Nine relations as colours, red growing downwards and green to the right, in squares of so many pixels.

    [B, side * side] -> uint8 [B, side * size, side * size, 3]
    """
    side = math.isqrt(relations.shape[1])
    colour = torch.stack([relations // 3 * 127, relations % 3 * 127, torch.full_like(relations, 64)], -1)
    squares = colour.to(torch.uint8).unflatten(1, (side, side))
    return squares.repeat_interleave(size, 1).repeat_interleave(size, 2)
