"""Pictures of formulas, drawn while training: no file, no download, and the label is the formula."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..settings import Data
from .ifs import Array, System, cells, fill, finite, orbits, search, stream, weight_rows
from .source import Split

WEIGHTS = weight_rows()
IDENTITY = 2  # the row that leaves a formula as it was accepted
PROBE = 512, 16  # steps and orbits: a slow divergence that a picture's short orbits would not show
BLANK = 0.02  # of a small canvas: a formula that lights less shows nearly nothing
STEPS = 32  # points of each of a picture's orbits
PAD = 6
LIT = 127
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
        self.points = data.fractal_points
        self.known: dict[int, tuple[System, list[int]]] = {}

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
        system, rows = self.formula(category)
        numbers = stream(self.seed, category, 0, 0, instance)
        row = instance % len(WEIGHTS)
        if row not in rows:
            row = rows[numbers.integers(len(rows))]
        picture = self.draw(system, WEIGHTS[row], numbers)
        return Image.fromarray(flipped(picture, instance // len(WEIGHTS) % 4)).convert("RGB")

    def formula(self, category: int) -> tuple[System, list[int]]:
        """A category's maps, and the rows of weights with which they neither diverge nor draw almost nothing."""
        if category not in self.known:
            system = search(self.seed, category)
            self.known[category] = system, _usable(system, stream(self.seed, category, 0, 1, 0))
        return self.known[category]

    def draw(self, system: System, weights: Array, numbers: np.random.Generator) -> NDArray[np.uint8]:
        """The weights change the maps, not how often each is chosen."""
        chosen = system.choices(numbers, STEPS, -(-self.points // STEPS))
        points = orbits(system.maps * weights, chosen).reshape(2, -1)[:, : self.points]
        masks = numbers.integers(1, 512, self.points)
        return patches(cells(points, self.size, PAD), masks, self.size)


def _usable(system: System, numbers: np.random.Generator) -> list[int]:
    points = orbits(system.maps * WEIGHTS[:, None], system.choices(numbers, *PROBE))  # [2, T, rows, orbits]
    shown = (points[:, :, row] for row in range(len(WEIGHTS)))
    return [row for row, seen in enumerate(shown) if finite(seen) and fill(seen) >= BLANK] or [IDENTITY]


def patches(places: NDArray[np.int64], masks: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Write each point's 3 x 3 bits, the highest first, with their corner one right of and below it; later ones win.

    places int64 [2, N], column and row; masks int64 [N] of nine bits -> uint8 [size, size], its rows from the bottom up
    """
    near = np.arange(1, 4)
    offsets = (near[:, None] * size + near).ravel()
    where = (places[1] * size + places[0])[:, None] + offsets  # [N, 9]
    canvas = np.zeros(size * size, np.uint8)
    canvas[where] = (masks[:, None] >> BITS & 1) * LIT  # of equal indices numpy keeps the last
    return canvas.reshape(size, size)[::-1]


def flipped(picture: NDArray[np.uint8], flip: int) -> NDArray[np.uint8]:
    """0 as it is, 1 upside down, 2 mirrored, 3 both."""
    rows = slice(None, None, -1 if flip & 1 else 1)
    return np.ascontiguousarray(picture[rows, :: -1 if flip & 2 else 1])
