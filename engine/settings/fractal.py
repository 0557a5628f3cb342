"""Settings of supervised training on formulas (FractalDB; arXiv:2101.08515, arXiv:2206.09132)."""

from __future__ import annotations

from typing import Literal

from . import supervised
from .strict import Share


class Settings(supervised.Settings):
    """Published values; the flips are among the instances already, unless there is one image a class (0.5 then)."""

    name: Literal["fractal"] = "fractal"  # type: ignore[assignment]  # a name of its own
    flip: Share = 0.0
    vertical_flip: Share = 0.0
