"""Pictures of formulas, drawn while training: no file, no download, and the label is the formula."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..settings.formulas import Formulas
from .contour import atom, picture, rcdb
from .fractal_categories import formulas
from .fractal_instances import Instances
from .ifs import SPLITS, stream
from .source import Split

CATEGORIES = 1  # the seed of the categories, whatever the run's: FractalDB's own
PICTURES = 2  # a part of the counter apart from the categories'


class Artist(Protocol):
    """Draws instance `instance` of a category: uint8 [size, size], or [size, size, 3]; BadImage where it cannot."""

    replaced: int  # pictures for which another variation was drawn, in this process

    def draw(self, category: int, instance: int) -> NDArray[np.uint8]: ...

    def told(self) -> str | None:
        """What a run should know of the pictures drawn so far, in one line."""
        ...


class Fractals:
    """`categories` formulas with `instances` pictures each; picture i belongs to category i // instances.

    Points and patches: see Instances; contours: contour.py. Everything is a function of (seed, index), the categories
    of their number alone. Split "val" holds a quarter as many other instances, whose variations are not seen in
    training.
    """

    def __init__(self, data: Formulas, seed: int, split: Split = "train"):
        self.instances = data.instances if split == "train" else max(1, data.instances // 4)
        self.classes: tuple[str, ...] | None = tuple(f"{category:05d}" for category in range(data.categories))
        self.first = 0 if split == "train" else data.instances
        self.size = data.fractal_size
        self.artist: Artist = (
            Contours(data, seed, split) if data.contours else Instances(data, formulas(data), seed, split)
        )

    def __len__(self) -> int:
        return len(self.classes or ()) * self.instances

    def label(self, index: int) -> int:
        return index // self.instances

    def name(self, index: int) -> str:
        return f"fractal {self.label(index)}/{self.first + index % self.instances}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels(index)).convert("RGB")

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """uint8 [size, size], or [size, size, 3] in colour."""
        return self.artist.draw(self.label(index), index % self.instances)


class Contours:
    """Rings of polygons, each picture of a category with random numbers of its own."""

    replaced = 0

    def __init__(self, data: Formulas, seed: int, split: Split):
        self.make = rcdb if data.style == "contour_rcdb" else atom
        self.size, self.seed, self.split = data.fractal_size, seed, SPLITS.index(split)

    def draw(self, category: int, instance: int) -> NDArray[np.uint8]:
        contour = self.make(stream(CATEGORIES, category, 0, 0))
        return picture(contour, stream(self.seed, category, PICTURES + self.split, instance), self.size)

    def told(self) -> None:
        return None
