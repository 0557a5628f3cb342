"""What RelViT does to each patch by itself, done to all patches of a batch at once (arXiv:2206.00481, section 3).

Random numbers are a function of (seed, step, sample id, patch). Nothing here loops over patches or images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitkiln import kernels

from . import patch_colours
from .resize import resized

PATCHES, SHUFFLE, NOISE = 16, 17, 19  # streams of random numbers; `kernels.uniform`
NUMBERS = 2 + patch_colours.NUMBERS  # that a patch takes
MARGIN = 1.15  # side of a patch over that of its crop
SHARE = 0.85  # of the central crop's area
Scaling = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and deviation of pixels in [0, 1]


@dataclass(frozen=True, slots=True)
class PatchTransforms:
    """A crop of each patch, resized to the patch, and its colours.

    random: a square of round(p / 1.15) pixels, anywhere. center: in the central square of ceil(p / 1.15) pixels one of
    0.85 of its area, anywhere. none: the patch.
    """

    crop: str
    jitter: patch_colours.Strengths
    jitter_probability: float
    gray: float

    def __call__(self, patches: Tensor, seed: Tensor, ids: Tensor) -> Tensor:
        """patches [B, P, p, p, 3] uint8, or float as `patch_colours.jittered` has it -> the same"""
        batch, count = patches.shape[:2]
        numbers = kernels.uniform(seed, ids, count * NUMBERS, PATCHES).view(batch * count, NUMBERS)
        changed = self.cropped(patches.flatten(0, 1), numbers[:, :2])
        jitter = self.jitter_probability if any(self.jitter) else 0.0
        if jitter or self.gray:
            changed = patch_colours.coloured(
                changed, patch_colours.drawn(numbers[:, 2:], self.jitter, jitter, self.gray)
            )
        return changed.unflatten(0, (batch, count))

    def cropped(self, patches: Tensor, numbers: Tensor) -> Tensor:
        """[N, p, p, 3], two numbers each -> [N, p, p, 3]"""
        size = patches.shape[1]
        start, room, side = extent(self.crop, size)
        if side == size:
            return patches
        first = start + (numbers * (room + 1)).long().clamp(max=room)
        rows, columns = ((part, torch.full_like(part, side)) for part in first.split(1, 1))
        return resized(patches, rows, columns, size)


def extent(crop: str, size: int) -> tuple[int, int, int]:
    """Where the first crop of a patch begins, how far it may move, and its side, in pixels.

    >>> [extent("random", size) for size in (4, 8, 16, 32)]
    [(0, 1, 3), (0, 1, 7), (0, 2, 14), (0, 4, 28)]
    >>> [extent("center", size) for size in (4, 8, 16, 32)]
    [(0, 0, 4), (0, 1, 6), (1, 1, 13), (2, 2, 26)]
    """
    if crop == "none":
        return 0, 0, size
    if crop == "random":
        side = round(size / MARGIN)
        return 0, size - side, side
    middle = math.ceil(size / MARGIN)
    side = round(math.sqrt(SHARE) * middle)
    return round((size - middle) / 2), middle - side, side


def permutation(seed: Tensor, ids: Tensor, count: int) -> Tensor:
    """Which patch comes to each place, in an order of each image's own: int64 [B, count]"""
    return kernels.uniform(seed, ids, count, SHUFFLE).argsort(stable=True, dim=1)


def noisy(images: Tensor, patch: int, probability: float, seed: Tensor, ids: Tensor, scaling: Scaling) -> Tensor:
    """Images [B, H, W, 3], uint8 or normalised, some of whose patches are noise, N(0, 1) once it is normalised.

    uint8 noise is rounded and cut at black and white.
    """
    rows, columns = images.shape[1] // patch, images.shape[2] // patch
    chosen = kernels.uniform(seed, ids, rows * columns, NOISE).view(-1, rows, columns) < probability
    mask = chosen.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    mean, std = (None, None) if images.dtype.is_floating_point else scaling
    return kernels.corrupt_groups(images, mask, "noise", None, seed, ids, mean, std)
