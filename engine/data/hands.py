"""The hands that carry out what is drawn for each image: who decodes and cuts, and which of them a run takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import torch

from vitkiln.kernels.crop_views import ready

from ..errors import MissingBackend, RecipeError
from ..vocabulary import View
from . import dali, torchvision_decode
from .crops import Crops, Cutter, Task
from .source import Files, Source
from .workers import AT_ONCE, Stream

HARDWARE = 0.65  # share of a batch that DALI gives to the GPU's JPEG engine, if nothing else is said
JPEG = ".jpg", ".jpeg", ".jpe", ".jfif"
WORTH_IT = 0.5  # share of JPEGs from which DALI pays
LOOKED_AT = 100  # names


class Carried(Protocol):
    """Crops of the tasks, in their order."""

    def __next__(self) -> Crops: ...

    def close(self) -> None:
        """End what works on them."""
        ...


class Hand(Protocol):
    """Makes crops of tasks: sample ids, boxes and colours are the same whichever does, pixels up to rounding."""

    at_once: ClassVar[int]  # images of one task

    def carry(self, tasks: Iterable[Task], workers: int, device: torch.device) -> Carried:
        """In so many processes, for use on the device."""
        ...


class Pillow:
    """Reads, decodes and cuts in worker processes: the meaning of a crop, always there."""

    at_once: ClassVar[int] = AT_ONCE

    def __init__(self, source: Source, views: tuple[View, ...], seed: int):
        self.cutter = Cutter(source, views, seed)

    def carry(self, tasks: Iterable[Task], workers: int, device: torch.device) -> Carried:
        ready("cpu")  # what is built here need not be built in each worker
        return Stream(self.cutter, tasks, workers, pin=device.type == "cuda")


class Torchvision(Pillow):
    """The same with another decoder of JPEGs."""

    def __init__(self, source: Source, views: tuple[View, ...], seed: int):
        self.cutter = Cutter(source, views, seed, torchvision_decode.by_torchvision)


def choice(wish: str, source: Source, device: torch.device) -> tuple[str, str]:
    """The name of the hand to take, `wish` unless that is auto, and why it is taken.

    RecipeError where the images are no files, MissingBackend where what is asked for cannot be used.
    """
    if wish == "auto":
        return automatic(source, device)
    if wish != "pillow" and not isinstance(source, Files):
        raise RecipeError(f"data.loader={wish}: these pictures are drawn, not decoded; must be auto or pillow")
    trouble = None
    if wish == "dali":
        trouble = dali.trouble(device)
    elif wish == "torchvision":
        trouble = torchvision_decode.trouble()
    if trouble:
        raise MissingBackend(f"data.loader={wish}: {trouble}; see `engine doctor`, or set data.loader=pillow")
    return wish, "asked for"


def automatic(source: Source, device: torch.device) -> tuple[str, str]:
    """DALI where it decodes JPEGs on a GPU, else Pillow, and why."""
    if not isinstance(source, Files):
        return "pillow", "auto: pictures are drawn, not decoded"
    if device.type != "cuda":
        return "pillow", "auto: there is no GPU"
    if jpegs(source) < WORTH_IT:
        return "pillow", "auto: most images are no JPEGs, which is all that DALI would decode"
    trouble = dali.trouble(device)
    return ("pillow", f"auto: {trouble}") if trouble else ("dali", "auto: DALI decodes on the GPU")


def jpegs(source: Files) -> float:
    """Their share, by the names of some images from one end to the other."""
    looked = range(0, len(source), max(1, len(source) // LOOKED_AT))
    return sum(source.name(index).lower().endswith(JPEG) for index in looked) / max(1, len(looked))


def hand(name: str, source: Source, views: tuple[View, ...], seed: int, hardware: float = HARDWARE) -> Hand:
    """The hand that `choice` named."""
    if name == "dali":
        assert isinstance(source, Files)
        return dali.Dali(source, views, seed, hardware)
    return {"pillow": Pillow, "torchvision": Torchvision}[name](source, views, seed)
