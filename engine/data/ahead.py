"""Batches handed over: on a GPU made ahead of the step that needs them, and in any case with a clock on the waiting."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple

import torch

from ..vocabulary import Batch

DEPTH = 2  # batches that are ready, or nearly so, beside the one in use
PATIENCE = 0.2  # seconds between looks at whether anybody still wants batches
GRACE = 10.0  # seconds that a thread has to end


class HandOver(Iterator[Batch]):
    """The batches of an iterator, each made when it is asked for."""

    def __init__(self, batches: Iterator[Batch]):
        self.batches = batches
        self.seconds = 0.0

    def __next__(self) -> Batch:
        began = time.perf_counter()
        try:
            return self.take()
        finally:
            self.seconds += time.perf_counter() - began

    def take(self) -> Batch:
        return next(self.batches)

    def waited(self) -> float:
        """Seconds that steps have waited for batches since this was asked last."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def close(self) -> None:
        """No more batches are wanted."""


class Ready(NamedTuple):
    """A batch, and the point on the copying stream where it is whole."""

    batch: Batch
    event: torch.cuda.Event | None


class Ahead(HandOver):
    """The same, made up to `depth` batches ahead by a thread, on a GPU in one stream of its own.

    Copies and colours then run beside the step before. On a GPU waiting is what its queue does between the end of
    that step and a whole batch, measured by pairs of events, which are read when somebody asks and so cost nothing: a
    host that waits while the GPU still works delays no step. What goes wrong in the thread is raised here.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device, depth: int = DEPTH):
        super().__init__(batches)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.ready: queue.Queue[Ready | BaseException] = queue.Queue(depth - 1)  # the thread itself holds one more
        self.unwanted = threading.Event()
        self.waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.thread = threading.Thread(target=self.work, name="hand-over", daemon=True)
        self.thread.start()

    def work(self) -> None:
        """In the thread."""
        try:
            with self.lane():
                for batch in self.batches:
                    self.put(Ready(batch, self.stream.record_event() if self.stream else None))
                    if self.unwanted.is_set():
                        return
            self.put(StopIteration())
        except BaseException as error:  # told where batches are taken
            self.put(error)

    def lane(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def put(self, item: Ready | BaseException) -> None:
        while not self.unwanted.is_set():
            with suppress(queue.Full):
                self.ready.put(item, timeout=PATIENCE)
                return

    def take(self) -> Batch:
        idle = self.mark()
        item = self.got()
        if isinstance(item, BaseException):
            self.put(item)  # for whoever asks again
            raise item
        if item.event is not None:
            self.enqueue(item.batch, item.event, idle)
        return item.batch

    def mark(self) -> torch.cuda.Event | None:
        """Where the GPU's queue ends by now: from there on it waits."""
        if self.stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.stream.device))
        return event

    def got(self) -> Ready | BaseException:
        """What comes next; an end where nothing will, after `close`."""
        while True:
            with suppress(queue.Empty):
                return self.ready.get(timeout=PATIENCE if self.unwanted.is_set() else None)
            if not self.thread.is_alive():
                return StopIteration()

    def enqueue(self, batch: Batch, whole: torch.cuda.Event, idle: torch.cuda.Event | None) -> None:
        """Let the GPU, not the host, wait until the batch is whole; its memory is not used again before the step is
        done."""
        stream = torch.cuda.current_stream(batch.views[0].device)
        stream.wait_event(whole)
        ready = self.mark()
        if idle is not None and ready is not None:
            self.waits.append((idle, ready))
        for tensor in (*batch.views, batch.ids, batch.seed, batch.labels):
            if tensor is not None:
                tensor.record_stream(stream)

    def waited(self) -> float:
        host = super().waited()
        if self.stream is None:
            return host
        done = [pair for pair in self.waits if pair[1].query()]
        self.waits = self.waits[len(done) :]  # they end in their order
        return sum(idle.elapsed_time(ready) for idle, ready in done) / 1000

    def close(self) -> None:
        """Wait for the thread, but not for ever: what it waits for may end only when its loader is closed."""
        self.unwanted.set()
        self.thread.join(GRACE)


def hand_over(batches: Iterator[Batch], device: torch.device) -> HandOver:
    """Ahead of the step on a GPU; on a CPU a thread would only take the step's cores away."""
    return Ahead(batches, device) if device.type == "cuda" else HandOver(batches)
