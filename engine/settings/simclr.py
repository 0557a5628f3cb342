"""Settings of SimCLR (arXiv:2002.05709) on a Vision Transformer."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from .sections import MethodSettings
from .strict import Count, Positive, Problem, Quadruple, Share, Shares


class Settings(MethodSettings):
    """Augmentation of SimCLR, heads and temperature of MoCo v3; see methods/simclr.py for what they mean."""

    smallest_batch: ClassVar[int] = 2  # one image has no negative

    name: Literal["simclr"] = "simclr"
    temperature: Positive = 0.2
    hidden: Count = 4096
    output: Count = 256
    crop_scale: Shares = (0.08, 1.0)
    jitter: Quadruple = (0.8, 0.8, 0.8, 0.2)
    jitter_probability: Share = 0.8
    gray: Share = 0.2
    blur: Share = 0.5

    def conflicts(self) -> Iterator[Problem]:
        """Ranges that torch would only complain about in the middle of a step."""
        yield from super().conflicts()
        low, high = self.crop_scale
        if not 0 < low <= high:
            yield Problem(
                "crop_scale", self.crop_scale, "must be two shares of the area, the smaller first and more than 0"
            )
        if self.jitter[3] > 0.5:
            yield Problem("jitter", self.jitter, "the last, hue, must be at most 0.5")
