"""Images as they are evaluated on: scaled, the centre cut out, nothing random."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .source import BadImage, Source
from .workers import AT_ONCE, Stream

SEED_OF_SUBSET = 1 << 32  # in the place of an epoch
log = logging.getLogger("vitkiln")


class Stills(NamedTuple):
    """Crops of some images, and what kept the others out."""

    pixels: Tensor  # uint8 [B, size, size, 3]
    labels: Tensor  # int64 [B]
    bad: tuple[tuple[str, str], ...]  # path and reason


class Centre:
    """Indices -> Stills."""

    def __init__(self, source: Source, size: int):
        self.source, self.size = source, size

    def __call__(self, indices: NDArray[np.int64]) -> Stills:
        pixels = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        labels: list[int] = []
        bad = []
        for index in indices.tolist():
            try:
                pixels[len(labels)] = np.asarray(centre(self.source.image(index), self.size))
            except BadImage as error:  # noqa: PERF203  reading costs a thousand times as much
                bad.append((error.path, error.reason))
            else:
                labels.append(self.source.label(index))
        return Stills(torch.from_numpy(pixels[: len(labels)]), torch.tensor(labels, dtype=torch.int64), tuple(bad))


def stills(
    source: Source, size: int, *, batch_size: int, workers: int, limit: int | None, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 [B, size, size, 3] and int64 labels [B] of the images in their order; -1 where there are no labels.

    The short side is scaled to round(size * 256 / 224), bicubic, and the central square taken. Broken images are
    logged and left out, so that B is at most `batch_size`. At most `limit` images are read, one from each of as many
    equal stretches of the source, a function of `seed`. DataError where none can be read.
    """
    chosen = subset(len(source), limit, seed)
    batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    tasks = [batch[start : start + AT_ONCE] for batch in batches for start in range(0, len(batch), AT_ONCE)]
    results: Stream[Stills] = Stream(Centre(source, size), tasks, workers)
    found, first = 0, ("", "no image")
    try:
        for batch in batches:
            parts = [next(results) for _ in range(0, len(batch), AT_ONCE)]
            for path, reason in (pair for part in parts for pair in part.bad):
                first = first if first[0] else (path, reason)
                log.warning("%s: %s; left out", path, reason)
            labels = torch.cat([part.labels for part in parts])
            found += len(labels)
            if len(labels):
                yield torch.cat([part.pixels for part in parts]), labels
    finally:
        results.close()
    if not found:
        raise DataError(f"none of {len(chosen)} images can be read; the first is {first[0]}: {first[1]}")


def subset(count: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """One index from each of `limit` equal stretches, all of them where there are no more."""
    if limit is None or limit >= count:
        return np.arange(count)
    key = np.array([seed, SEED_OF_SUBSET], np.uint64)
    within = np.random.Generator(np.random.Philox(key=key)).random(limit)
    return ((np.arange(limit) + within) * (count / limit)).astype(np.int64)


def centre(image: Image.Image, size: int) -> Image.Image:
    """Scale and cut in one: the box of the original that the central square comes from. A picture of one row of
    pixels is never scaled as a whole."""
    width, height = image.size
    short = round(size * 256 / 224)
    scaled = (short, short * height // width) if width <= height else (short * width // height, short)
    left, top = (round((side - size) / 2) for side in scaled)
    x, y = width / scaled[0], height / scaled[1]
    box = (left * x, top * y, min(width, (left + size) * x), min(height, (top + size) * y))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
