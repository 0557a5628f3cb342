"""Settings of MoCo v3 (arXiv:2104.02057)."""

from typing import ClassVar, Literal

from .sections import MethodSettings
from .strict import Count, Positive, Quadruple, Share, Shares


class Settings(MethodSettings):
    """Published values; see methods/mocov3.py for what they mean."""

    smallest_batch: ClassVar[int] = 2  # one image has no negative, and its batch statistics are nought

    name: Literal["mocov3"] = "mocov3"
    temperature: Positive = 0.2
    momentum: Share = 0.99
    hidden: Count = 4096
    output: Count = 256
    crop_scale: Shares = (0.08, 1.0)
    jitter: Quadruple = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: Share = 0.8
    gray: Share = 0.2
    blur: Shares = (1.0, 0.1)  # of the first and the second view
    solarize: Shares = (0.0, 0.2)
