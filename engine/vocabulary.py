"""The nouns that every room shares.

View      how one crop of an image is made
Batch     the crops of some images, as uint8, with their labels and sample ids
Plan      which patches an encoder sees, and which place each is told it has
Losses    named scalar terms; `total` is their sum
Moment    where a run is on its schedule

One word for one idea, here and in kernels, recipes and records: `keep` [B, K] is the index of a kept patch,
`place` [B, K] the index of the position it is told, `wrong` [B, K] whether that is another patch's, `restore`
[B, P] the rank of each patch in the shuffle. B images, P patches, K kept patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command validates recipes without waiting for torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class View:
    """How one crop of an image is made: where it is cut, and what happens to its colours, in this order.

    RandAugment comes after both flips and before the colours.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height
    retry: bool = True  # False: what does not fit is cut to the image's sides (MAE's linear probe)
    padding: int = 0  # more than 0: a whole square, moved by at most so many pixels over black, in place of the above
    interpolation: str = "bilinear"  # or bicubic
    randaugment: str | None = None  # such as rand-m9-mstd0.5-inc1
    fill: tuple[int, int, int] = (124, 116, 104)  # what RandAugment shows beyond the picture
    vertical_flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    jitter_probability: float = 0.8
    gray: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    solarize: float = 0.0
    flip: float = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """What a method learns from."""

    views: tuple[Tensor, ...]  # each uint8 [B, H, W, 3], augmented, not normalised
    ids: Tensor  # int64 [B], the same for an image whichever rank or worker reads it
    seed: Tensor  # int64 [2]: the run's seed and the step
    labels: Tensor | None = None  # int64 [B]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which patches an encoder sees, and where each is told it is. `None` for keep means every patch."""

    keep: Tensor | None = None  # int64 [B, K] index of the patch
    place: Tensor | None = None  # int64 [B, K] index of the position it receives; None: its own
    wrong: Tensor | None = None  # bool [B, K]
    restore: Tensor | None = None  # int64 [B, P]


@dataclass(slots=True)
class Losses:
    """Named terms whose sum is minimised, and metrics that are only reported."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return reduce(add, self.terms.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run is on its schedule, which a budget of steps or minutes compresses."""

    step: int  # taken so far
    epoch: float  # of run.epochs
    progress: float  # in [0, 1]
