"""What a worker does: decode an image once, cut every view from it, and say what is to happen to their colours."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitkiln.kernels.augment_views import layout

from ..vocabulary import View
from .draw import colours, crop_box, generator, uniforms
from .source import BadImage, Source

ATTEMPTS = 32  # images tried in the place of a broken one
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Task(NamedTuple):
    """Some images of one epoch."""

    epoch: int
    ids: NDArray[np.int64]


class Crops(NamedTuple):
    """The crops of a task. Where `complete` is False no image could be found for one of them."""

    views: tuple[Tensor, ...]  # uint8 [B, H, W, 3]
    parameters: tuple[NDArray[np.float32], ...]  # [B, 13], see kernels/augment_views/columns.py
    labels: NDArray[np.int64]  # [B]
    bad: tuple[tuple[str, str], ...]  # path and reason
    complete: bool


class Cutter:
    """Task -> Crops, a function of (seed, epoch, sample id) for each image."""

    def __init__(self, source: Source, views: tuple[View, ...], seed: int):
        self.source, self.views, self.seed = source, views, seed

    def __call__(self, task: Task) -> Crops:
        count = len(task.ids)
        pixels = [np.empty((count, view.size, view.size, 3), np.uint8) for view in self.views]
        rows = [np.empty((count, layout.COUNT), np.float32) for _ in self.views]
        labels = np.empty(count, np.int64)
        bad: list[tuple[str, str]] = []
        for place, sample in enumerate(task.ids.tolist()):
            found = self.find(task.epoch, sample, bad)
            if found is None:
                return Crops((), (), labels[:0], tuple(bad), False)
            image, labels[place] = found
            for number, view in enumerate(self.views):
                numbers = uniforms(self.seed, task.epoch, number, sample)
                pixels[number][place] = cut(image, crop_box(numbers, *image.size, view), view)
                rows[number][place] = colours(numbers, view)
        return Crops(tuple(map(torch.from_numpy, pixels)), tuple(rows), labels, tuple(bad), True)

    def find(self, epoch: int, sample: int, bad: list[tuple[str, str]]) -> tuple[Image.Image, int] | None:
        """The image and its label, or those of one drawn in its place; the broken ones are added to `bad`."""
        index = sample
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.source.image(index), self.source.label(index)
            except BadImage as error:
                bad.append((error.path, error.reason))
            index = int(generator(self.seed, epoch, 0, sample, attempt).integers(len(self.source)))
        return None


def cut(image: Image.Image, box: tuple[float, float, float, float], view: View) -> NDArray[np.uint8]:
    """The box at the view's size; the filter's support may reach beyond the box, as it does in the picture."""
    return np.asarray(image.resize((view.size, view.size), FILTERS[view.interpolation], box=box))
