"""Pictures of formulas, drawn while training: no file, no download, and the label is the formula."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..settings import Data
from .ifs import PAD, SETTLE, System, orbits, pixels, search, weight_rows
from .source import Split

BLANK = 0.02  # share of lit pixels below which a picture shows nearly nothing
LIT = 127
LONG, PROBES = (
    512,
    16,
)  # steps and orbits by which a divergence is found that a picture's short orbits would not show
WEIGHTS = weight_rows()
BITS = np.arange(8, -1, -1)


class Fractals:
    """`categories` formulas with `instances` pictures each; picture i belongs to category i // instances.

    An instance is a row of weights on the formula's parameters, random points, a random 3 x 3 patch at each of them,
    of which the later hide the earlier, and a flip (FractalDB; Kataoka et al., arXiv:2101.08515): grey 0 or 127 on
    black. Everything is a function of (seed, index). Split "val" holds a quarter as many other instances.
    """

    def __init__(self, data: Data, seed: int, split: Split = "train"):
        self.seed, self.size = seed, data.fractal_size
        self.first, self.instances = 0, data.instances
        if split == "val":
            self.first, self.instances = data.instances, max(1, data.instances // 4)
        self.classes: tuple[str, ...] | None = tuple(f"{category:05d}" for category in range(data.categories))
        self.steps = 32
        self.chains = -(-data.fractal_points // self.steps)
        self.points = data.fractal_points
        self.known: dict[int, tuple[System, NDArray[np.int64]]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "known": {}}

    def __len__(self) -> int:
        return len(self.classes or ()) * self.instances

    def label(self, index: int) -> int:
        return index // self.instances

    def name(self, index: int) -> str:
        return f"fractal {self.label(index)}/{self.instance(index)}"

    def instance(self, index: int) -> int:
        return self.first + index % self.instances

    def image(self, index: int) -> Image.Image:
        category, instance = self.label(index), self.instance(index)
        key = np.array([self.seed, category], np.uint64)
        numbers = np.random.Generator(
            np.random.Philox(key=key, counter=np.array([0, 0, 0, instance], np.uint64))
        )
        system, rows = self.formula(category)
        row = instance % len(WEIGHTS)
        if row not in rows:
            row = int(rows[numbers.integers(len(rows))])
        picture = self.draw(weighted(system, row), numbers)
        picture = flipped(picture, instance // len(WEIGHTS) % 4)
        return Image.fromarray(picture).convert("RGB")

    def formula(self, category: int) -> tuple[System, NDArray[np.int64]]:
        """A category's maps, and the rows of weights with which they neither diverge nor draw almost nothing."""
        if category not in self.known:
            system = search(self.seed, category)
            rows = [row for row in range(len(WEIGHTS)) if self.shows(weighted(system, row), category, row)]
            self.known[category] = (
                system,
                np.array(rows or [2]),
            )  # row 2 leaves the formula as it was accepted
        return self.known[category]

    def shows(self, system: System, category: int, row: int) -> bool:
        key = np.array([self.seed, category], np.uint64)
        counter = np.array([0, row, 1, 0], np.uint64)
        numbers = np.random.Generator(np.random.Philox(key=key, counter=counter))
        if orbits(system, numbers.random((LONG, PROBES))) is None:
            return False
        return bool((self.draw(system, numbers) > 0).mean() >= BLANK)

    def draw(self, system: System, numbers: np.random.Generator) -> NDArray[np.uint8]:
        points = orbits(system, numbers.random((SETTLE + self.steps, self.chains)))
        if points is None:
            return np.zeros((self.size, self.size), np.uint8)
        masks = numbers.integers(1, 512, self.points)
        return patches(pixels(points.reshape(-1, 2)[: self.points], self.size, PAD), masks, self.size)


def weighted(system: System, row: int) -> System:
    """The weights change the maps, not how often each is chosen."""
    return System(system.maps * WEIGHTS[row], system.cumulative)


def patches(cells: NDArray[np.int64], masks: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Write each point's 3 x 3 bits, the highest first, with their corner one right of and below it; later ones win.

    cells int64 [N, 2] (x, y), masks int64 [N] of nine bits -> uint8 [size, size], its rows from the bottom up
    """
    near = np.arange(1, 4)
    offsets = (near[:, None] * size + near).ravel()
    where = (cells[:, 1] * size + cells[:, 0])[:, None] + offsets  # [N, 9]
    canvas = np.zeros(size * size, np.uint8)
    canvas[where] = (masks[:, None] >> BITS & 1) * LIT  # of equal indices numpy keeps the last
    return canvas.reshape(size, size)[::-1]


def flipped(picture: NDArray[np.uint8], flip: int) -> NDArray[np.uint8]:
    """0 as it is, 1 upside down, 2 mirrored, 3 both."""
    rows = slice(None, None, -1 if flip & 1 else 1)
    return np.ascontiguousarray(picture[rows, :: -1 if flip & 2 else 1])
