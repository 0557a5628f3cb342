"""Read a folder of images or of shards from end to end before a run does, and tell what is there."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .decode import opened, reason, rgb
from .folder import FolderSource, open_folder
from .parts import Ticks
from .shards import ShardSource, open_shards
from .source import BadImage, kind_of
from .workers import AT_ONCE, Stream


class Looked(NamedTuple):
    """What a worker found in some files."""

    sizes: tuple[tuple[int, int], ...]  # width, height
    modes: tuple[str, ...]
    file_bytes: int
    bad: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The images below a folder. Of the sides, the smallest, the median and the largest are given."""

    root: str
    images: int
    classes: tuple[str, ...] | None
    readable: int
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    modes: dict[str, int]
    file_bytes: int
    seconds: float
    bad: tuple[tuple[str, str], ...]  # path and reason

    @property
    def megabytes_per_second(self) -> float:
        return self.file_bytes / 1e6 / self.seconds

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


class Look:
    """Indices -> Looked."""

    def __init__(self, source: FolderSource | ShardSource):
        self.source = source

    def __call__(self, indices: NDArray[np.int64]) -> Looked:
        sizes, modes, bad, file_bytes = [], [], [], 0
        for index in indices.tolist():
            try:
                data = self.source.read(index)
                file_bytes += len(data)
                image = opened(data)
                rgb(image)
            except BadImage as error:  # noqa: PERF203  reading costs a thousand times as much
                bad.append((error.path, error.reason))
            except Exception as error:  # as in picture()
                bad.append((self.source.name(index), reason(error)))
            else:
                sizes.append(image.size)
                modes.append(image.mode)
        return Looked(tuple(sizes), tuple(modes), file_bytes, tuple(bad))


def check_folder(root: str | os.PathLike[str], workers: int) -> tuple[Report, ...]:
    """Decode every image of a folder: one report for the training images, one for the others where there are any.

    Shards that are cut short or are none are `bad` beside the images that are.
    DataError where the folder or its images are missing, or a worker dies.
    """
    return tuple(check(source, workers) for source in splits_of(root))


def splits_of(root: str | os.PathLike[str]) -> list[FolderSource | ShardSource]:
    """The training images, and the others where there are any. DataError."""
    door = open_shards if kind_of(Path(root)) == "shards" else open_folder
    splits = (door(str(root), None, "train"), door(str(root), None, "val"))
    return [source for source in splits if source is not None]


def check(source: FolderSource | ShardSource, workers: int, tick: Ticks = lambda count: None) -> Report:
    """Decode every image of a split; `tick` hears of images as they are decoded."""
    started, looked = time.perf_counter(), []
    for part in _look(source, workers):
        looked.append(part)
        tick(len(part.sizes) + len(part.bad))
    sizes = np.array([size for part in looked for size in part.sizes] or [(0, 0)])
    return Report(
        root=source.index.root,
        images=len(source),
        classes=source.classes,
        readable=sum(len(part.sizes) for part in looked),
        widths=_spread(sizes[:, 0]),
        heights=_spread(sizes[:, 1]),
        modes=dict(Counter(mode for part in looked for mode in part.modes).most_common()),
        file_bytes=sum(part.file_bytes for part in looked),
        seconds=time.perf_counter() - started,
        bad=(*source.problems, *(pair for part in looked for pair in part.bad)),
    )


def _look(source: FolderSource | ShardSource, workers: int) -> Iterator[Looked]:
    tasks = np.array_split(np.arange(len(source)), -(-len(source) // AT_ONCE))
    results: Stream[Looked] = Stream(Look(source), tasks, workers)
    try:
        yield from results
    finally:
        results.close()


def _spread(values: NDArray[np.int64]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())
