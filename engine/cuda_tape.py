"""A step on a CUDA graph: warmed up, watched and recorded on a stream of its own, replayed on the current one."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from .one_pass import recording
from .vocabulary import Losses

log = logging.getLogger("vitkiln")
WAITS, PROTOTYPE = "synchronizing CUDA operation", "debug mode is a prototype"  # in PyTorch's words


class CudaTape:
    """`recorder.Tape` on a GPU. The graph has memory of its own, taken when it is recorded.

    The thread that makes batches goes on meanwhile.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, stream: torch.cuda.Stream):
        self.optimizer, self.stream = optimizer, stream
        self.graph: torch.cuda.CUDAGraph | None = None
        self.kept: object = None  # what the graph reads besides
        self.broken: list[torch.cuda.CUDAGraph] = []

    def eagerly(self, body: Callable[[], Losses]) -> Losses:
        self.release()
        around = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(around)
        with torch.cuda.stream(self.stream):
            losses = body()
        around.wait_stream(self.stream)
        return losses

    def watched(self, body: Callable[[], Losses]) -> tuple[Losses, str | None]:
        with waiting() as places:
            losses = self.eagerly(body)
        return losses, f"the step waits for the device ({', '.join(dict.fromkeys(places))})" if places else None

    def record(self, body: Callable[[], Losses]) -> Losses:
        began, graph, pool = time.perf_counter(), torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with (
                torch.cuda.stream(self.stream),
                recording(self.optimizer) as kept,
                torch.cuda.graph(graph, pool, self.stream, capture_error_mode="thread_local"),
            ):
                losses = body()
        except BaseException:
            self.clear(graph, pool)
            raise
        self.graph, self.kept = graph, kept
        reserved = torch.cuda.memory_reserved(self.stream.device) / 2**30
        log.info("a step is one CUDA graph: recorded in %.1f s, %.2f GiB held", time.perf_counter() - began, reserved)
        return losses

    def clear(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
        """A capture that broke off leaves the allocator waiting for its end, and asking the graph, which must stay."""
        self.broken.append(graph)
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self.stream.device.index, pool)

    def replay(self) -> None:
        assert self.graph is not None
        self.graph.replay()

    def recover(self) -> None:
        torch.cuda.synchronize(self.stream.device)  # raises where an error has spoilt the device
        self.release()

    def release(self) -> None:
        """Give the memory of a graph back that is not replayed any more."""
        if self.graph is not None:
            torch.cuda.synchronize(self.stream.device)
            self.graph, self.kept = None, None


@contextmanager
def waiting() -> Iterator[list[str]]:
    """Where this thread waits for the device: file and line, as far as PyTorch notices."""
    places: list[str] = []
    mode, thread = torch.cuda.get_sync_debug_mode(), threading.get_ident()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning

        def listen(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object) -> None:
            if WAITS in str(message):
                if threading.get_ident() == thread:  # others may wait: they prepare batches
                    places.append(f"{Path(filename).name}:{lineno}")
            elif PROTOTYPE not in str(message):
                show(message, category, filename, lineno)

        warnings.showwarning = listen  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)
