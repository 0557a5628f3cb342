"""What a worker does where another process decodes: read files, and draw where they are cut and coloured how."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..vocabulary import View
from .crops import Spent, Task, operations
from .decode import picture
from .draw import colours, crop_box, padded_corner, uniforms
from .jpeg import plain
from .randaugment import RandAugment
from .replacement import Bad, replaced
from .source import Files

BARE = -1  # in place of an index


class Encoded(NamedTuple):
    """An image for another decoder."""

    data: bytes  # a plain JPEG, or bare pixels (PPM)
    size: tuple[int, int]  # width and height
    place: int  # in the source, or BARE
    label: int


class Prepared(NamedTuple):
    """The images of a task; no image at all where `complete` is False, as none could be found for one of them."""

    task: Task
    data: Tensor  # uint8, the encoded images end to end
    ends: NDArray[np.int64]  # [B] where each ends
    indices: NDArray[np.int64]  # [B]
    labels: NDArray[np.int64]  # [B]
    places: NDArray[np.float32]  # [V, B, 4] for each of V views, see `place`
    parameters: tuple[NDArray[np.float32], ...]  # V times [B, 13], see kernels/augment_views/columns.py
    operations: tuple[NDArray[np.float64], ...]  # V times [B, L, 7], see kernels/rand_augment/columns.py
    bad: tuple[tuple[str, str], ...]  # path and reason
    complete: bool
    spent: Spent

    def encoded(self) -> list[NDArray[np.uint8]]:
        """Each image by itself."""
        return np.split(self.data.numpy(), self.ends[:-1])


class Preparer:
    """Task -> Prepared, a function of (seed, epoch, sample id) for each image, as a Cutter's Crops are.

    Images whose index is among `left` are left to Pillow.
    """

    def __init__(self, source: Files, views: tuple[View, ...], seed: int):
        self.source, self.views, self.seed = source, views, seed
        self.augment = [None if view.randaugment is None else RandAugment(view) for view in views]
        self.left: set[int] = set()

    def __call__(self, task: Task) -> Prepared:
        self.read = self.decode = 0.0
        bad: Bad = []
        images = self.found(task, bad)
        began = perf_counter()
        places, rows, tables = self.drawn(task, images)
        spent = Spent(self.read, self.decode, perf_counter() - began)
        data = torch.frombuffer(bytearray().join(image.data for image in images) or bytearray(1), dtype=torch.uint8)
        ends = np.array([len(image.data) for image in images], np.int64).cumsum()
        indices, labels = np.array([(image.place, image.label) for image in images]).reshape(-1, 2).T
        complete = len(images) == len(task.ids)
        return Prepared(task, data, ends, indices, labels, places, rows, tables, tuple(bad), complete, spent)

    def found(self, task: Task, bad: Bad) -> list[Encoded]:
        """An image for each sample, or none at all."""
        images = []
        for sample in task.ids.tolist():
            image = replaced(self.find, len(self.source), self.seed, task.epoch, sample, bad)
            if image is None:
                return []
            images.append(image)
        return images

    def find(self, index: int) -> Encoded:
        """An image; BadImage where its file cannot be read, or Pillow had to and could not."""
        began = perf_counter()
        data, label = self.source.read(index), self.source.label(index)
        between = perf_counter()
        jpeg = None if index in self.left else plain(data)
        if jpeg is None:
            image = picture(data, self.source.name(index))
            bare = b"P6 %d %d 255\n" % image.size + image.tobytes()
            found = Encoded(bare, image.size, BARE, label)
        else:
            found = Encoded(*jpeg, index, label)
        self.read += between - began
        self.decode += perf_counter() - between
        return found

    def drawn(
        self, task: Task, images: list[Encoded]
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.float32], ...], tuple[NDArray[np.float64], ...]]:
        """Places, parameters and operations of all views."""
        places, rows, tables = [], [], []
        samples = task.ids[: len(images)].tolist()
        for number, (view, augment) in enumerate(zip(self.views, self.augment, strict=True)):
            more = augment.numbers if augment else 0
            numbers = [uniforms(self.seed, task.epoch, number, sample, more) for sample in samples]
            places.append([place(each, image.size, view) for each, image in zip(numbers, images, strict=True)])
            rows.append(np.array([colours(each, view) for each in numbers], np.float32))
            tables.append(np.array([operations(each, view, augment) for each in numbers]))
        return np.array(places, np.float32), tuple(rows), tuple(tables)


def place(numbers: list[float], size: tuple[int, int], view: View) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the crop. With padding: height and width that the whole image is to have, then
    top and left of the square in it."""
    if not view.padding:
        left, top, right, bottom = crop_box(numbers, *size, view)
        return top, left, bottom, right
    width, height = (max(view.size, round(view.size * side / min(size))) for side in size)
    left, top = padded_corner(numbers, width, height, view)
    return height, width, top, left
