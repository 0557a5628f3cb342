"""Settings of DINO (arXiv:2104.14294)."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from .sections import MethodSettings
from .strict import Count, NotNegative, Positive, Quadruple, Share, Shares

Kinds = Annotated[
    tuple[Share, Share, Share], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]  # of the first large crop, the second, and the small ones


class Settings(MethodSettings):
    """Published values; see methods/dino.py for what they mean."""

    smallest_batch: ClassVar[int] = 2  # one image is its own centre, and has no neighbour

    name: Literal["dino"] = "dino"
    local_crops: Annotated[int, Field(ge=0)] = 8
    local_size: Count = 96
    global_scale: Shares = (0.4, 1.0)  # (0.14, 1) is the published choice without small crops
    local_scale: Shares = (0.05, 0.4)
    hidden: Count = 2048
    bottleneck: Count = 256
    output: Count = 65_536  # prototypes
    norm_last_layer: bool = True  # prototypes of unit length; else each has a length of its own, which is learned
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    warmup_teacher_temperature: Positive = 0.04
    warmup_teacher_epochs: NotNegative = 0.0
    momentum: Share = 0.996
    centering: Literal["mean", "sinkhorn"] = "mean"
    center_momentum: Share = 0.9
    freeze_last_layer: NotNegative = 1.0  # epochs
    koleo: NotNegative = 0.0
    jitter: Quadruple = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: Share = 0.8
    gray: Share = 0.2
    blur: Kinds = (1.0, 0.1, 0.5)
    solarize: Kinds = (0.0, 0.2, 0.0)
