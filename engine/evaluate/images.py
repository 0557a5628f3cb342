"""Images as protocols look at them: read by number, cut by a rule, broken ones left out and never replaced."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..data.crops import cut
from ..data.draw import crop_box, flips, uniforms
from ..data.randaugment import FILTERS
from ..data.source import BadImage, Source
from ..data.workers import AT_ONCE, Stream
from ..errors import DataError
from ..vocabulary import View

SEED_OF_SUBSET = 1 << 32  # in the place of an epoch
SMALL = 64  # pixels: encoders of at most this size see the whole picture, as those of CIFAR do
log = logging.getLogger("vitkiln")
Cut = Callable[[Image.Image, int], NDArray[np.uint8]]  # an image and its number -> [size, size, 3]


@dataclass(frozen=True, slots=True)
class Still:
    """The central square after the short side was scaled to size * 256 / 224, or to `size` itself up to 64 pixels.

    Scaled and cut in one. Where nothing is to be scaled the pixels are the picture's own.
    """

    size: int
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image, number: int) -> NDArray[np.uint8]:
        size, (width, height) = self.size, image.size
        short = size if size <= SMALL else round(size * 256 / 224)
        scaled = (short, short * height // width) if width <= height else (short * width // height, short)
        left, top = (round((side - size) / 2) for side in scaled)
        x, y = width / scaled[0], height / scaled[1]
        box = (left * x, top * y, min(width, (left + size) * x), min(height, (top + size) * y))
        return np.asarray(image.resize((size, size), FILTERS[self.interpolation], box=box))


@dataclass(frozen=True, slots=True)
class Crop:
    """A random resized crop, mirrored half of the time: a function of (seed, copy, number)."""

    view: View
    seed: int
    copy: int

    @property
    def size(self) -> int:
        return self.view.size

    def __call__(self, image: Image.Image, number: int) -> NDArray[np.uint8]:
        numbers = uniforms(self.seed, self.copy, 0, number)
        square = cut(image, crop_box(numbers, *image.size, self.view), self.view)
        return square[:, ::-1] if flips(numbers, self.view)[0] else square


class Pictures(NamedTuple):
    """Some images, and what kept the others out."""

    pixels: Tensor  # uint8 [B, size, size, 3]
    numbers: Tensor  # int64 [B], in the source
    bad: tuple[tuple[str, str], ...]  # path and reason


@dataclass(frozen=True, slots=True)
class Reader:
    """Numbers -> Pictures, in a worker."""

    source: Source
    how: Still | Crop

    def __call__(self, numbers: NDArray[np.int64]) -> Pictures:
        pixels = np.empty((len(numbers), self.how.size, self.how.size, 3), np.uint8)
        read: list[int] = []
        bad = []
        for number in numbers.tolist():
            try:
                pixels[len(read)] = self.how(self.source.image(number), number)
            except BadImage as error:  # noqa: PERF203  reading costs a thousand times as much
                bad.append((error.path, error.reason))
            else:
                read.append(number)
        return Pictures(torch.from_numpy(pixels[: len(read)]), torch.tensor(read, dtype=torch.int64), tuple(bad))


def pictures(
    source: Source, how: Still | Crop, numbers: NDArray[np.int64], *, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 [B, size, size, 3] and the numbers [B] of the images asked for, in their order, at most `batch_size`.

    Broken images are logged and left out. DataError where none can be read.
    """
    batches = [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
    tasks = [batch[start : start + AT_ONCE] for batch in batches for start in range(0, len(batch), AT_ONCE)]
    results: Stream[Pictures] = Stream(Reader(source, how), tasks, workers)
    found, first = 0, ("", "no image")
    try:
        for batch in batches:
            parts = [next(results) for _ in range(0, len(batch), AT_ONCE)]
            for path, reason in (pair for part in parts for pair in part.bad):
                first = first if first[0] else (path, reason)
                log.warning("%s: %s; left out", path, reason)
            read = torch.cat([part.numbers for part in parts])
            found += len(read)
            if len(read):
                yield torch.cat([part.pixels for part in parts]), read
    finally:
        results.close()
    if not found:
        raise DataError(f"none of {len(numbers)} images can be read; the first is {first[0]}: {first[1]}")


def labels_of(source: Source, numbers: Tensor) -> Tensor:
    """int64 [B], -1 where there are no labels."""
    return torch.tensor([source.label(number) for number in numbers.tolist()], dtype=torch.int64)


def images_of(limit: int | None, *sources: Source | None) -> int:
    """How many images will be read, at most `limit` of each source."""
    return sum(min(len(source), limit or len(source)) for source in sources if source is not None)


def subset(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """One index from each of `limit` equal stretches, all of them where there are no more."""
    if limit is None or limit >= count:
        return np.arange(count)
    key = np.array([seed, SEED_OF_SUBSET], np.uint64)
    within = np.random.Generator(np.random.Philox(key=key)).random(limit)
    return ((np.arange(limit) + within) * (count / limit)).astype(np.int64)
