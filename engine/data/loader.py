"""From a source to batches on the device: shuffled, decoded and cut by workers, coloured where they are used."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkiln.kernels.augment_views import augment_views, layout

from ..errors import DataError
from ..vocabulary import Batch, View
from .balanced import order_of
from .crops import Crops, Cutter, Task
from .source import Source
from .workers import AT_ONCE, Stream

log = logging.getLogger("vitkiln")


class Loader:
    """Batches without end, from step `step` on; the same for any number of workers, ranks and restarts.

    `batch_size` counts the images of one step over all ranks and micro-batches; each step is `accumulate` batches, or
    `order.parts(step)` at the end of an epoch with `leftover`. With `repeats` it holds as many crops of an image,
    each a sample with an id of its own; with `classes` each batch is as many classes in equal numbers (balanced.py).
    Broken images are replaced, logged once and kept in `bad`. DataError where more than `max_bad` of the images are
    broken, where a worker dies, and where the source does not fill one step; ValueError where batch_size does not
    divide by accumulate * world.
    """

    def __init__(
        self,
        source: Source,
        views: tuple[View, ...],
        *,
        batch_size: int,
        repeats: int = 1,
        accumulate: int = 1,
        leftover: bool = False,
        classes: int | None = None,
        seed: int,
        step: int = 0,
        workers: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device,
        max_bad: float,
    ):
        self.order = order_of(
            source, batch_size, classes, seed=seed, repeats=repeats, accumulate=accumulate, leftover=leftover,
            rank=rank, world=world,
        )  # fmt: skip
        self.steps_per_epoch = self.order.steps_per_epoch
        self.cutter = Cutter(source, views, seed)
        self.step, self.workers, self.device, self.max_bad = step, workers, device, max_bad
        self.bad: dict[str, str] = {}
        self.streams: list[Stream[Crops]] = []

    def __iter__(self) -> Iterator[Batch]:
        stream = Stream(self.cutter, self.tasks(), self.workers, pin=self.device.type == "cuda")
        self.streams.append(stream)
        step = self.step
        while True:
            for micro in range(self.order.parts(step)):
                yield self.batch(stream, step, torch.from_numpy(self.order.ids(step, micro)))
            step += 1

    def tasks(self) -> Iterator[Task]:
        order = copy.copy(self.order)  # runs ahead, and so is in another epoch at times
        step = self.step
        while True:
            for micro in range(order.parts(step)):
                ids = order.ids(step, micro)
                for start in range(0, len(ids), AT_ONCE):
                    yield Task(order.epoch(step), ids[start : start + AT_ONCE])
            step += 1

    def batch(self, stream: Stream[Crops], step: int, ids: Tensor) -> Batch:
        parts = [self.checked(next(stream)) for _ in range(0, len(ids), AT_ONCE)]
        pictures = [self.together(list(views)) for views in zip(*(part.views for part in parts), strict=True)]
        rows = [np.concatenate(rows) for rows in zip(*(part.parameters for part in parts), strict=True)]
        return Batch(
            views=tuple(self.coloured(*pair) for pair in zip(pictures, rows, strict=True)),
            ids=self.together([ids]),
            seed=self.together([torch.tensor([self.order.seed, step])]),
            labels=None if self.cutter.source.classes is None else self.array([part.labels for part in parts]),
        )

    def coloured(self, images: Tensor, rows: NDArray[np.float32]) -> Tensor:
        """Images [B, H, W, 3] after what their rows [B, 13] ask for, if any asks for anything."""
        return augment_views(images, self.array([rows])) if layout.asks(rows).any() else images

    def array(self, parts: list[NDArray[Any]]) -> Tensor:
        return self.together([torch.from_numpy(np.concatenate(parts))])

    def together(self, parts: list[Tensor]) -> Tensor:
        """One tensor on the device. On CUDA nothing waits: the parts are, or are put, in pinned memory."""
        if self.device.type != "cuda":  # by one thread: others may wait for a core that a worker has
            return torch.from_numpy(np.concatenate([part.numpy() for part in parts])).to(self.device)
        whole = torch.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=parts[0].dtype, device=self.device)
        start = 0
        for part in parts:
            pinned = part if part.is_pinned() else part.pin_memory()
            whole[start : start + len(part)].copy_(pinned, non_blocking=True)
            start += len(part)
        return whole

    def checked(self, crops: Crops) -> Crops:
        for path, reason in crops.bad:
            if path not in self.bad:
                self.bad[path] = reason
                log.warning("%s: %s; another image takes its place", path, reason)
        total = self.order.length
        limit = max(1, int(self.max_bad * total)) if self.max_bad else 0
        if not crops.complete or len(self.bad) > limit:
            path, reason = next(iter(self.bad.items()))
            raise DataError(
                f"{len(self.bad)} of {total} images cannot be read and data.max_bad, {self.max_bad:g}, allows "
                f"{limit}; the first is {path}: {reason}. engine check-data lists them all."
            )
        return crops

    def close(self) -> None:
        """End the worker processes."""
        while self.streams:
            self.streams.pop().close()
