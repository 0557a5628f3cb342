"""Settings of SimCLR (arXiv:2002.05709) on a Vision Transformer."""

from typing import ClassVar, Literal

from .sections import MethodSettings
from .strict import Count, Positive, Quadruple, Share, Shares


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
