"""What a worker does: decode an image once, cut every view from it, and say what is to happen to their colours."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitkiln.kernels.augment_views import layout
from vitkiln.kernels.rand_augment import layout as operations_layout

from ..vocabulary import View
from .cut import Sheet
from .decode import picture
from .draw import UNIFORMS, colours, crop_box, flips, padded_corner, uniforms
from .randaugment import FILTERS, RandAugment
from .replacement import Bad, replaced
from .source import Files, Source

Decoder = Callable[[bytes, str], Image.Image]  # an encoded image and its name -> mode RGB; BadImage


class Task(NamedTuple):
    """Some images of one epoch."""

    epoch: int
    ids: NDArray[np.int64]


class Spent(NamedTuple):
    """Seconds of a worker."""

    read: float = 0.0
    decode: float = 0.0  # or draw, where images are no files
    cut: float = 0.0


class Crops(NamedTuple):
    """The crops of a task. Where `complete` is False no image could be found for one of them."""

    views: tuple[Tensor, ...]  # uint8 [B, H, W, 3]
    parameters: tuple[NDArray[np.float32], ...]  # [B, 13], see kernels/augment_views/columns.py
    labels: NDArray[np.int64]  # [B]
    bad: tuple[tuple[str, str], ...]  # path and reason
    complete: bool
    spent: Spent
    operations: tuple[NDArray[np.float64], ...]  # [B, L, 7] of RandAugment, L = 0 where a view has none


class Cutter:
    """Task -> Crops, a function of (seed, epoch, sample id) for each image, which is number id modulo their count."""

    def __init__(self, source: Source, views: tuple[View, ...], seed: int, decoder: Decoder = picture):
        self.source, self.views, self.seed, self.decoder = source, views, seed, decoder
        self.files = source if isinstance(source, Files) else None
        self.augment = [None if view.randaugment is None else RandAugment(view) for view in views]

    def __call__(self, task: Task) -> Crops:
        count = len(task.ids)
        pixels = [np.empty((count, view.size, view.size, 3), np.uint8) for view in self.views]
        rows = [np.empty((count, layout.COUNT), np.float32) for _ in self.views]
        tables = [np.empty((count, *shape(augment))) for augment in self.augment]
        labels = np.empty(count, np.int64)
        bad: Bad = []
        self.read = self.decode = cutting = 0.0
        for place, sample in enumerate(task.ids.tolist()):
            found = replaced(self.find, len(self.source), self.seed, task.epoch, sample, bad)
            if found is None:
                return Crops((), (), labels[:0], tuple(bad), False, Spent(), ())
            image, labels[place] = found
            began = perf_counter()
            sheet = Sheet(image)
            for number, (view, augment) in enumerate(zip(self.views, self.augment, strict=True)):
                numbers = uniforms(self.seed, task.epoch, number, sample, augment.numbers if augment else 0)
                pixels[number][place] = made(sheet, numbers, view)
                tables[number][place] = operations(numbers, view, augment)
                rows[number][place] = colours(numbers, view)
            cutting += perf_counter() - began
        spent = Spent(self.read, self.decode, cutting)
        whole = tuple(map(torch.from_numpy, pixels))
        return Crops(whole, tuple(rows), labels, tuple(bad), True, spent, tuple(tables))

    def find(self, index: int) -> tuple[Image.Image, int]:
        """An image and its label; BadImage."""
        began = between = perf_counter()
        if self.files is not None:
            data = self.files.read(index)
            between = perf_counter()
            image = self.decoder(data, self.files.name(index))
        else:
            image = self.source.image(index)
        self.read += between - began
        self.decode += perf_counter() - between
        return image, self.source.label(index)


def made(sheet: Sheet, numbers: list[float], view: View) -> NDArray[np.uint8]:
    """A crop, neither flipped nor coloured: [size, size, 3]"""
    if view.padding:
        return padded(sheet.image, numbers, view)
    return sheet.cut(crop_box(numbers, *sheet.image.size, view), view)


def shape(augment: RandAugment | None) -> tuple[int, int]:
    """Of one crop's operations."""
    return (augment.rows if augment else 0), operations_layout.COUNT


def operations(numbers: list[float], view: View, augment: RandAugment | None) -> NDArray[np.float64]:
    """What `rand_augment` is to do to a crop. It sees it flipped, as its shears have a side."""
    if augment is None:
        return np.empty(shape(None))
    return augment.operations(numbers[UNIFORMS:], flips(numbers, view), view.size, view.size)


def padded(image: Image.Image, numbers: list[float], view: View) -> NDArray[np.uint8]:
    """A square of the image whose short side has the view's size, moved by at most `padding` pixels over black."""
    size, short = view.size, min(image.size)
    width, height = (max(size, round(size * side / short)) for side in image.size)
    left, top = padded_corner(numbers, width, height, view)
    x = slice(max(0, -left), min(size, width - left))  # of the square, where there is image
    y = slice(max(0, -top), min(size, height - top))
    canvas = np.zeros((size, size, 3), np.uint8)
    across, down = image.width / width, image.height / height
    box = ((left + x.start) * across, (top + y.start) * down, (left + x.stop) * across, (top + y.stop) * down)
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
    part = image.resize((x.stop - x.start, y.stop - y.start), FILTERS[view.interpolation], box=box)
    canvas[y, x] = np.asarray(part)
    return canvas


def cut(image: Image.Image, box: tuple[float, float, float, float], view: View) -> NDArray[np.uint8]:
    """The box of one picture at the view's size."""
    return Sheet(image).cut(box, view)
