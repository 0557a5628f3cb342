"""Settings of DILEMMA (arXiv:2204.04788) over its base."""

from typing import Literal

from . import mocov3
from .sections import NotNegative, Share


class Settings(mocov3.Settings):
    """Those of the base, and what DILEMMA adds; see methods/dilemma.py."""

    name: Literal["dilemma"] = "dilemma"  # type: ignore[assignment]
    base: Literal["mocov3"] = "mocov3"
    keep: Share = 0.25  # share of the patches that the student sees
    wrong_probability: Share = 0.2
    weight: NotNegative = 1.0  # of the detection term
