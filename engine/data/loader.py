"""From a source to batches on the device: shuffled, decoded and cut by workers, coloured where they are used."""

import copy
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitkiln.kernels.augment_views import augment_views, layout
from vitkiln.kernels.rand_augment import rand_augment

from ..errors import DataError
from ..vocabulary import Batch, View
from .bad_files import BadFiles, shown
from .balanced import order_of
from .crops import Crops, Task
from .hands import HARDWARE, Carried, hand
from .source import Files, Source
from .stages import Stages


class Loader:
    """Batches without end, from step `step` on; the same for any number of workers, ranks and restarts.

    `batch_size` counts the images of one step over all ranks and micro-batches; each step is `accumulate` batches, or
    `order.parts(step)` at the end of an epoch with `leftover`. With `repeats` it holds as many crops of an image,
    each a sample with an id of its own; with `classes` each batch is as many classes in equal numbers (balanced.py).
    `loader` names who decodes and cuts (hands.py).
    Broken images are replaced, logged once and kept in `bad`, which others may share. DataError where more than
    `max_bad` of the images are broken, where a worker dies, and where the source does not fill one step; ValueError
    where batch_size does not divide by accumulate * world.
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
        loader: str = "pillow",
        hardware_decoding: float = HARDWARE,
        bad: BadFiles | None = None,
    ):
        self.order = order_of(
            source, batch_size, classes, seed=seed, repeats=repeats, accumulate=accumulate, leftover=leftover,
            rank=rank, world=world,
        )  # fmt: skip
        self.steps_per_epoch = self.order.steps_per_epoch
        self.views = views
        self.source, self.hand = source, hand(loader, source, views, seed, hardware_decoding)
        self.step, self.workers, self.device, self.max_bad = step, workers, device, max_bad
        self.stages = Stages(isinstance(source, Files), workers, loader)
        self.bad = BadFiles() if bad is None else bad
        self.streams: list[Carried] = []
        self.problems = dict(getattr(source, "problems", ()))  # of what is no image itself
        for path, reason in self.problems.items():
            self.bad.add(path, reason, "what can be read of it is used")

    def __iter__(self) -> Iterator[Batch]:
        stream = self.hand.carry(self.tasks(), self.workers, self.device)
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
                for start in range(0, len(ids), self.hand.at_once):
                    yield Task(order.epoch(step), ids[start : start + self.hand.at_once])
            step += 1

    def batch(self, stream: Carried, step: int, ids: Tensor) -> Batch:
        parts = [self.checked(next(stream)) for _ in range(0, len(ids), self.hand.at_once)]
        began = perf_counter()
        pictures = [self.together(list(views)) for views in zip(*(part.views for part in parts), strict=True)]
        between = perf_counter()
        rows = [np.concatenate(rows) for rows in zip(*(part.parameters for part in parts), strict=True)]
        tables = [np.concatenate(tables) for tables in zip(*(part.operations for part in parts), strict=True)]
        changed = (self.changed(*each) for each in zip(pictures, self.views, tables, strict=True))
        views = tuple(self.coloured(*pair) for pair in zip(changed, rows, strict=True))
        self.stages.add("copy", between - began)
        self.stages.add("colour", perf_counter() - between)
        return Batch(
            views,
            ids=self.together([ids]),
            seed=self.together([torch.tensor([self.order.seed, step])]),
            labels=None if self.source.classes is None else self.array([part.labels for part in parts]),
        )

    def changed(self, images: Tensor, view: View, operations: NDArray[np.float64]) -> Tensor:
        """Images [B, H, W, 3] after RandAugment's operations [B, L, 7], if there are any."""
        if not operations.shape[1]:
            return images
        return rand_augment(images, self.array([operations]), view.fill, view.interpolation)

    def coloured(self, images: Tensor, rows: NDArray[np.float32]) -> Tensor:
        """Images [B, H, W, 3] after what their rows [B, 13] ask for, if any asks for anything."""
        return augment_views(images, self.array([rows])) if layout.asks(rows).any() else images

    def array(self, parts: list[NDArray[Any]]) -> Tensor:
        return self.together([torch.from_numpy(np.concatenate(parts))])

    def together(self, parts: list[Tensor]) -> Tensor:
        """One tensor on the device. On CUDA nothing waits: the parts are there, or in pinned memory, or put there."""
        if parts[0].device.type == self.device.type == "cuda":
            return torch.cat(parts)
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
            self.bad.add(path, reason)
        self.stages.worked(crops.spent, len(crops.labels))
        total, found = self.order.length, len(self.bad) - len(self.problems)
        limit = max(1, int(self.max_bad * total)) if self.max_bad else 0
        if not crops.complete or found > limit:
            told = [*self.bad.items()]  # which another thread may add to
            path, reason = next(pair for pair in told if pair[0] not in self.problems)
            rule = f"data.max_bad, {self.max_bad:g}, allows {limit}" if found > limit else "none takes the place of one"
            raise DataError(
                f"{found} of {total} images cannot be read and {rule}; the first is {shown(path)}: {shown(reason)}. "
                "engine check-data lists them all."
            )
        return crops

    def close(self) -> None:
        """End the worker processes."""
        while self.streams:
            self.streams.pop().close()
