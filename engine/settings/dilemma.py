"""Settings of DILEMMA (arXiv:2204.04788) over its base."""

from collections.abc import Iterator
from math import ceil
from typing import Literal

from . import mocov3
from .sections import Encoder, kept
from .strict import NotNegative, Problem, Share


class Settings(mocov3.Settings):
    """Those of the base, and what DILEMMA adds; see methods/dilemma.py."""

    name: Literal["dilemma"] = "dilemma"  # type: ignore[assignment]
    base: Literal["mocov3"] = "mocov3"
    keep: Share = 0.25  # share of the patches that the student sees
    wrong_probability: Share = 0.2
    weight: NotNegative = 1.0  # of the detection term

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """A student that sees nothing, or a wrong place where there is no other."""
        if kept(encoder.patches, self.keep) == 0:
            least = ceil(1e4 / encoder.patches) / 1e4
            yield Problem("keep", self.keep, f"keeps none of {encoder.patches} patches; must be at least {least:g}")
        if self.wrong_probability and encoder.patches == 1:
            yield Problem(
                "wrong_probability", self.wrong_probability, "an image of one patch has no other place; must be 0"
            )
