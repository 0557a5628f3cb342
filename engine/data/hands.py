"""The hands that carry out what is drawn for each image: who decodes and cuts, and which of them a run takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

import torch

from ..vocabulary import View
from .crops import Crops, Cutter, Task
from .source import Source
from .workers import AT_ONCE, Stream


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
        return Stream(self.cutter, tasks, workers, pin=device.type == "cuda")


def choice(wish: str, source: Source, device: torch.device) -> tuple[str, str]:
    """The name of the hand to take, `wish` unless that is auto, and why it is taken."""
    return "pillow", "the only one" if wish == "auto" else "asked for"


def hand(name: str, source: Source, views: tuple[View, ...], seed: int) -> Hand:
    """The hand that `choice` named."""
    return {"pillow": Pillow}[name](source, views, seed)
