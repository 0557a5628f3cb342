"""Settings of supervised training, from scratch (DeiT, arXiv:2012.12877) or from another method's encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from .randaugment import policy
from .sections import Encoder, Labelled
from .strict import NotNegative, Positive, Problem, Quadruple, Share, Shares


class Settings(Labelled):
    """Published values; see methods/supervised.py for what they mean."""

    name: Literal["supervised"] = "supervised"
    pool: Literal["class", "mean", "mean_norm"] = "class"  # mean: with a norm of its own; mean_norm: the encoder's
    frozen: bool = False  # the encoder stays as it is, the head alone learns
    head_std: Positive = 0.02
    mixup: NotNegative = 0.8  # alpha; 0: off
    cutmix: NotNegative = 1.0
    mix_probability: Share = 1.0
    mix_switch: Share = 0.5  # how often cutmix where both are on
    smoothing: Share = 0.1
    erase: Share = 0.25
    randaugment: str | None = "rand-m9-mstd0.5-inc1"
    jitter: Quadruple = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    jitter_probability: Share = 1.0  # where there is any
    gray: Share = 0.0
    crop_scale: Shares = (0.08, 1.0)
    padding: Annotated[int, Field(ge=0)] = 0  # of a shifted square, in place of a crop of random size
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    flip: Share = 0.5
    vertical_flip: Share = 0.0

    def conflicts(self) -> Iterator[Problem]:
        """A policy that nobody knows, and a norm that would learn alone."""
        yield from super().conflicts()
        if self.frozen and self.pool == "mean":
            yield Problem("pool", "mean", "brings a norm of its own; must be class or mean_norm where method.frozen")
        if self.randaugment is not None:
            try:
                policy(self.randaugment)
            except ValueError as error:
                yield Problem("randaugment", self.randaugment, str(error))

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """A shift that leaves nothing of the image in sight."""
        if self.padding >= encoder.image_size:
            yield Problem("padding", self.padding, f"must be less than encoder.image_size={encoder.image_size}")
