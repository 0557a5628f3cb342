"""RandAugment (Cubuk et al., arXiv:1909.13719) as timm defines it: what a policy does to a picture, and how strongly.

Each of a policy's layers draws one of fifteen operations, with replacement, and does it with some probability at
level ~ normal(magnitude, std), cut to [0, 10]. All fifteen grow with the level. What comes into sight from beyond the
picture has one colour, the mean of the data. The operations themselves are those of `rand_augment`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitkiln.kernels.rand_augment import layout

from ..settings.randaugment import HIGHEST, Policy, policy
from ..vocabulary import View

NUMBERS = 4  # uniform ones that a layer needs: which operation, whether, how much, which way
FLIPS = 2  # rows before the layers', as shears have a side
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Brush(NamedTuple):
    """How an operation is done to a picture of this size: `level` in [0, 10], `sign` 1 or -1."""

    level: float
    sign: float
    width: int
    height: int

    def signed(self, most: float) -> float:
        """Between -most and most."""
        return self.sign * self.level / HIGHEST * most

    def whole(self, most: int) -> int:
        """From 0 to most."""
        return int(self.level / HIGHEST * most)


class RandAugment:
    """The policy that a view names: operations of `rand_augment` from given uniform numbers."""

    def __init__(self, view: View):
        assert view.randaugment is not None
        self.policy: Policy = policy(view.randaugment)
        self.numbers = NUMBERS * self.policy.layers
        self.rows = FLIPS + self.policy.layers
        self.interpolation, self.fill = view.interpolation, view.fill

    def operations(
        self, numbers: Sequence[float], flips: tuple[bool, bool], width: int, height: int
    ) -> NDArray[np.float64]:
        """What happens to a picture: mirrored, turned upside down, then the layers; float64 [self.rows, 7]

        `numbers` are as many as `self.numbers`, in [0, 1); `flips` says which of both flips are done.
        """
        table = np.zeros((self.rows, layout.COUNT))
        table[:FLIPS, layout.KIND] = np.where(flips, (layout.MIRROR, layout.UPSIDE_DOWN), layout.NONE)
        for layer in range(self.policy.layers):
            which, whether, much, way = numbers[NUMBERS * layer : NUMBERS * (layer + 1)]
            if whether < self.policy.probability:
                brush = Brush(self.level(much), 1.0 if way < 0.5 else -1.0, width, height)
                kind, drawn = OPERATIONS[int(which * len(OPERATIONS))]
                table[FLIPS + layer] = layout.row(kind, *drawn(brush))
        return table

    def level(self, uniform: float) -> float:
        centre, std = self.policy.magnitude, self.policy.std
        drawn = NormalDist(centre, std).inv_cdf(max(uniform, 2.0**-53)) if std else centre
        return min(HIGHEST, max(0.0, drawn))


def nothing(brush: Brush) -> tuple[float, ...]:
    """For an operation that has no strength."""
    return ()


def factor(brush: Brush) -> tuple[float, ...]:
    """Of an enhancement: 1 +- 0.9 at most."""
    return (max(0.1, 1 + brush.signed(0.9)),)


OPERATIONS: tuple[tuple[int, Callable[[Brush], tuple[float, ...]]], ...] = (
    (layout.AUTO_CONTRAST, nothing),
    (layout.EQUALIZE, nothing),
    (layout.INVERT, nothing),
    (layout.ROTATE, lambda brush: layout.rotation(brush.signed(30), brush.width, brush.height)),
    (layout.POSTERIZE, lambda brush: (4 - brush.whole(4),)),  # bits kept, down to none, which Pillow refuses
    (layout.SOLARIZE, lambda brush: (256 - brush.whole(256),)),  # from 256 on, down to 0
    (layout.SOLARIZE_ADD, lambda brush: (brush.whole(110),)),
    (layout.COLOR, factor),
    (layout.CONTRAST, factor),
    (layout.BRIGHTNESS, factor),
    (layout.SHARPNESS, factor),
    (layout.SHEAR_X, lambda brush: (1, brush.signed(0.3), 0, 0, 1, 0)),
    (layout.SHEAR_Y, lambda brush: (1, 0, 0, brush.signed(0.3), 1, 0)),
    (layout.TRANSLATE_X, lambda brush: (1, 0, brush.signed(0.45) * brush.width, 0, 1, 0)),
    (layout.TRANSLATE_Y, lambda brush: (1, 0, 0, 0, 1, brush.signed(0.45) * brush.height)),
)
