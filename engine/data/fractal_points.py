"""Where the points of a formula lie, and pictures made of them: the operators, one picture at a time."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkiln.kernels.fractals import draw_fractals, fractal_support, render_fractals

from ..settings.formulas import Formulas
from .ifs import Array, Formula


class Points(NamedTuple):
    """Pixels of one variation of a formula: a bit for each, or in colour the number of the last point modulo 128."""

    bits: NDArray[np.uint8]
    lit: int  # pixels with a point
    finite: bool


def trace(formula: Formula, weights: Array, data: Formulas) -> Points:
    """What `fast` needs of a formula's points."""
    found = fractal_support(*arguments(formula, weights), data.fractal_size, data.fractal_points, data.style)
    return Points(found.bits[0].numpy(), int(found.lit[0]), bool(found.finite[0]))


def fast(points: Points, key: int, data: Formulas) -> NDArray[np.uint8]:
    """Every pixel that a patch covers is lit with the chance that a bit of a patch has, by itself."""
    bits = torch.from_numpy(points.bits)[None]
    return draw_fractals(bits, torch.tensor([key]), data.fractal_size, data.style)[0].numpy()


def exact(formula: Formula, weights: Array, key: int, data: Formulas) -> NDArray[np.uint8]:
    """Later patches hide earlier ones."""
    maps = arguments(formula, weights)
    drawn = render_fractals(*maps, torch.tensor([key]), data.fractal_size, data.fractal_points, data.style)
    return drawn[0].numpy()


def arguments(formula: Formula, weights: Array) -> tuple[Tensor, Tensor, Tensor]:
    """As the operators take them: [1, k, 6], [1, k], [1, 6]"""
    return tuple(torch.from_numpy(part)[None] for part in (formula.maps, formula.probabilities, weights))  # type: ignore[return-value]
