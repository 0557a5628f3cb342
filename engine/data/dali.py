"""DALI as the hand that decodes and cuts: workers read and draw the numbers, and everything else is DALI's.

Samples, boxes and colours are those of every hand. Only plain JPEGs reach DALI as they are; what else there is, and
what DALI fails at, is decoded by Pillow and handed on as bare pixels, or replaced as everywhere.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from time import perf_counter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..vocabulary import View
from .cores import cores
from .crops import Crops, Spent, Task
from .dali_pipeline import Inputs, Machine, Pipeline, inputs, reason
from .prepare import BARE, Prepared, Preparer
from .source import Files
from .workers import Stream

log = logging.getLogger("vitkiln")


def trouble(device: torch.device) -> str | None:
    """Why DALI cannot be used on the device, None where it can."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        return "nvidia-dali is not installed; pip install 'vitkiln[dali]'"
    found = Machine(device, 1, 0.0, 1).trouble()
    return f"DALI does not work here: {found}" if found else None


class Dali:
    """Decodes and cuts with DALI's threads, or on the GPU: within 2 levels of Pillow, on average."""

    at_once: ClassVar[int] = 128  # encoded, they take as much shared memory as a task of Pillow's does cut

    def __init__(self, source: Files, views: tuple[View, ...], seed: int, hardware: float):
        self.preparer, self.hardware = Preparer(source, views, seed), hardware

    def carry(self, tasks: Iterable[Task], workers: int, device: torch.device) -> Flow:
        threads = workers or cores()
        return Flow(self.preparer, tasks, workers, Machine(device, threads, self.hardware, self.at_once))


class Flow(Iterator[Crops]):
    """Crops of the tasks, of which DALI has two in work while one is used.

    Where it gives up on a batch it takes none any more: the images that it cannot decode then become Pillow's, and
    all that was in work is fed to a new pipeline.
    """

    def __init__(self, preparer: Preparer, tasks: Iterable[Task], workers: int, machine: Machine):
        self.preparer, self.workers, self.machine = preparer, workers, machine
        self.stream = Stream(preparer, tasks, workers)  # before DALI's threads are there to be forked
        self.fed: deque[Prepared] = deque()  # what DALI has
        self.again: deque[Prepared] = deque()  # what it is to have before anything new
        self.end: Exception | None = None  # why nothing new comes
        self.fetching = 0.0  # seconds of waiting for workers
        self.pipeline: Pipeline = machine.pipeline(preparer.views, self.feed())

    def __next__(self) -> Crops:
        while True:
            began, fetching = perf_counter(), self.fetching
            try:
                views = self.machine.run(self.pipeline)
            except StopIteration:
                return self.last()
            except RuntimeError as error:
                self.mend(error)
            else:
                waited = perf_counter() - began - (self.fetching - fetching)
                return self.crops(self.fed.popleft(), views, waited)

    def feed(self) -> Iterator[Inputs]:
        """DALI's inputs, for which it asks ahead: what goes wrong here is kept until it is its turn."""
        while self.again or self.end is None:
            began = perf_counter()
            try:
                prepared = self.again.popleft() if self.again else self.checked(next(self.stream))
            except Exception as error:  # StopIteration among them
                self.end = error
                return
            finally:
                self.fetching += perf_counter() - began
            self.fed.append(prepared)
            if not prepared.complete:
                return
            yield inputs(prepared, self.preparer.views)

    def last(self) -> Crops:
        """What is no batch for DALI."""
        if self.fed:
            bad = self.fed.popleft().bad
            return Crops((), (), np.empty(0, np.int64), bad, False, Spent(), ())
        raise self.end or StopIteration

    def checked(self, prepared: Prepared) -> Prepared:
        """The same, made once more where a worker did not know that DALI cannot decode an image."""
        known = self.preparer.left.isdisjoint(prepared.indices.tolist())
        return prepared if known else self.preparer(prepared.task)

    def mend(self, error: RuntimeError) -> None:
        """Find what DALI cannot decode, trying each image alone, and go on without it; where none fails so, without
        all that were in work. DataError where the images are not to blame."""
        encoded = {
            index: data
            for prepared in self.fed
            for index, data in zip(prepared.indices.tolist(), prepared.encoded(), strict=prepared.complete)
            if index != BARE
        }
        if not encoded or self.machine.trouble():
            raise DataError(f"DALI gave up ({reason(error)}); data.loader=pillow does without it") from error
        failed = {index for index, data in encoded.items() if not self.machine.decodes(data)}
        for index in failed or encoded:
            log.warning("%s: DALI cannot decode it; it is left to Pillow", self.preparer.source.name(index))
        self.preparer.left.update(failed or encoded)
        self.again = deque(self.checked(prepared) for prepared in (*self.fed, *self.again))
        self.fed.clear()
        self.pipeline = self.machine.pipeline(self.preparer.views, self.feed())

    def crops(self, prepared: Prepared, views: list[Tensor], waited: float) -> Crops:
        read, decode, cut = prepared.spent
        spent = Spent(read, decode + waited * max(1, self.workers), cut)  # as if each of them had decoded so long
        parameters, operations = prepared.parameters, prepared.operations
        return Crops(tuple(views), parameters, prepared.labels, prepared.bad, True, spent, operations)

    def close(self) -> None:
        """End the processes and DALI's threads."""
        self.stream.close()
        self.end, self.pipeline = StopIteration(), None
