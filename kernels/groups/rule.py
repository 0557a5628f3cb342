"""How blocks of pixels are drawn: what a mask depends on beside random numbers, the same for every implementation."""

from math import ceil, gcd
from typing import NamedTuple

import torch
from torch import Tensor

from .._shared.philox import BLOCKS, bits

MOST_DRAWS = 1 << 14
GOLDEN = 0.6180339887498949


class Rule(NamedTuple):
    """Sizes are pixels; a unit is a square of `align` pixels a side, and blocks are whole units."""

    height: int
    width: int
    align: int
    tallest: int  # the sides of a block are below these, or one unit
    widest: int
    draws: int  # blocks; then single units in the order of `unit_order`
    centered: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Units down and across."""
        return self.height // self.align, self.width // self.align

    @property
    def units(self) -> int:
        """All of them."""
        return self.grid[0] * self.grid[1]

    @property
    def stride(self) -> int:
        """From each single unit to the next one, so that all have their turn, and neighbours far apart."""
        nearest = max(1, round(GOLDEN * self.units))
        return next(step for step in range(nearest, self.units + 2) if gcd(step, self.units) == 1)


def rule_of(size: tuple[int, int], align: int, max_block: float, anchor: str) -> Rule:
    """As published for max_block 0.3; the smaller blocks are, the more of them may be needed."""
    tallest, widest = (int(max_block * side) for side in size)
    draws = min(MOST_DRAWS, ceil(24 / max_block**2))
    return Rule(*size, align, tallest, widest, draws, anchor == "centered")


def random_words(seed: Tensor, sample_ids: Tensor, rule: Rule) -> Tensor:
    """24 random bits each, int64 [B, draws + 1, 4]: top, left, height and width of a block; last where units begin."""
    count = rule.draws + 1
    return bits(seed, sample_ids, (4 * count, BLOCKS))[0].view(-1, count, 4)


def below(random_bits: Tensor, limit: int) -> Tensor:
    """0 .. limit - 1, as likely as 24 bits allow."""
    return (random_bits * limit) >> 24


def nearest_units(pixels: Tensor, align: int) -> Tensor:
    """pixels / align, rounded half to even, without a fraction that a type could round."""
    whole, twice = pixels // align, pixels % align * 2
    return whole + ((twice > align) | ((twice == align) & (whole % 2 == 1)))


def edges(place: Tensor, extent: Tensor, length: int, most: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """First and last + 1 of the units of blocks along an axis, from 24 random bits for either.

    Corner: place in [0, length - align), down to a unit; extent in [align, most), cut at the border, then rounded.
    Centered: the middle has any place in [0, length), to the nearest unit, and what sticks out is cut off.
    """
    align = rule.align
    pixels = align + below(extent, max(1, most - align))
    if rule.centered:
        size = nearest_units(pixels, align)
        first = (2 * below(place, length) + 1 + (size + 1) * align) // (2 * align) - size
        return first.clamp(min=0), (first + size).clamp(max=length // align)
    first = below(place, max(1, length - align)) // align
    size = nearest_units(torch.minimum(pixels, length - first * align), align)
    return first, first + size


def blocks(words: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, bottom, left and right of every block in units, each int64 [B, draws]; bottom and right are outside."""
    top, left, tall, wide = words[:, : rule.draws].unbind(-1)
    return *edges(top, tall, rule.height, rule.tallest, rule), *edges(left, wide, rule.width, rule.widest, rule)


def unit_order(words: Tensor, rule: Rule) -> Tensor:
    """The turns that single units have once all blocks are drawn: int64 [B, units]"""
    start = below(words[:, rule.draws, :1], rule.units)
    return (start + torch.arange(rule.units, device=words.device) * rule.stride) % rule.units


def needed_units(target: Tensor, rule: Rule) -> Tensor:
    """The fewest units that make up the target share: int64 [B]"""
    return (target.double() * rule.units).ceil().long()
