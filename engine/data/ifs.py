"""Iterated function systems: the formulas whose attractors are pictures, and how their points are found.

A category is k = 2..7 maps x -> [[a, b], [c, d]] x + (e, f), all six numbers from U(-1, 1), chosen with probability
proportional to |ad - bc|. It is accepted where its attractor fills enough of the canvas. This is not FractalDB's
published search (Kataoka et al., arXiv:2101.08515), which follows one orbit of 100,000 points on 512 x 512 pixels and
draws its numbers in one sequence: here many short orbits run side by side on a small canvas, and every category's
numbers are its own, so that each can be found without the others.
"""

from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CATEGORY = 1 << 62  # a part of the counter apart from the instances'
SETTLE = 24  # steps from the origin before a point is kept
CANVAS, CHAINS, STEPS = 64, 64, 64
FILL = 0.33  # of 64 x 64 by 4,096 points, where the published search asks 0.2 of 512 x 512 by 100,000
LARGEST = 1e6  # a coordinate beyond it has left for infinity
FACTORS = (0.2, 0.6, 1.0, 1.4, 1.8)


@dataclass(frozen=True, slots=True)
class System:
    """The maps of a category [k, 6] and the running sum of their probabilities [k]."""

    maps: Array
    cumulative: Array

    def choices(self, numbers: np.random.Generator, steps: int, chains: int) -> NDArray[np.int64]:
        """The map that each orbit takes at each step, those before a point is kept included: [24 + steps, chains]"""
        found = np.searchsorted(self.cumulative, numbers.random((SETTLE + steps, chains)))
        return np.minimum(found, len(self.maps) - 1)  # rounding may leave the last sum below 1


def weight_rows() -> Array:
    """[25, 6]: one of the six parameters times one of five factors, the identity once.

    >>> weight_rows()[2].tolist(), weight_rows()[-1].tolist()
    ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.8])
    """
    rows = [(column, factor) for column in range(6) for factor in FACTORS if column == 0 or factor != 1.0]
    weights = np.ones((len(rows), 6))
    for row, (column, factor) in enumerate(rows):
        weights[row, column] = factor
    return weights


def stream(seed: int, category: int, *counter: int) -> np.random.Generator:
    """The random numbers of one part of one category."""
    key = np.array([seed, category], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, *counter], np.uint64)))


def search(seed: int, category: int) -> System:
    """The first accepted candidate of this category's own sequence."""
    for attempt in count():
        numbers = stream(seed, category, attempt, 0, CATEGORY)
        system = _candidate(numbers)
        points = orbits(system.maps, system.choices(numbers, STEPS, CHAINS))
        if finite(points) and fill(points) >= FILL:
            break
    return system


def _candidate(numbers: np.random.Generator) -> System:
    maps = numbers.uniform(-1, 1, (int(numbers.integers(2, 8)), 6))
    areas = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2])
    return System(maps, np.cumsum(areas / areas.sum()))


def orbits(maps: Array, chosen: NDArray[np.int64]) -> Array:
    """Points (x, y) of orbits from the origin: [2, T - 24, ..., chains]

    maps [k, 6], or [rows, k, 6] for several systems whose orbits make the same choices; `chosen` [T, chains] says
    which map each orbit takes at each step. What diverges ends in large numbers, infinities and NaN.
    """
    steps = np.moveaxis(maps[..., chosen, :], (-3, -1), (0, 1))  # [T, 6, ..., chains]
    points = np.zeros((len(chosen) + 1, 2, *steps.shape[2:]))
    with np.errstate(over="ignore", invalid="ignore"):
        for (a, b, c, d, e, f), (x, y), after in zip(steps, points, points[1:], strict=False):
            after[0], after[1] = a * x + b * y + e, c * x + d * y + f
    return np.moveaxis(points[1 + SETTLE :], 0, 1)


def finite(points: Array) -> bool:
    """Whether no orbit has left for infinity."""
    return bool(np.abs(points).max() < LARGEST)  # False for NaN


def fill(points: Array) -> float:
    """The share of a small canvas that is lit by the points [2, ...]."""
    x, y = cells(points, CANVAS, 0)
    lit = np.zeros(CANVAS**2, bool)
    lit[y * CANVAS + x] = True
    return float(lit.mean())


def cells(points: Array, size: int, pad: int) -> NDArray[np.int64]:
    """Column and row of each point, either axis stretched by itself over the canvas but for its border: [2, N]"""
    flat = points.reshape(2, -1)
    low = flat.min(1, keepdims=True)
    extent = np.maximum(flat.max(1, keepdims=True) - low, np.finfo(np.float64).tiny)
    return ((flat - low) / extent * (size - 1 - 2 * pad) + pad).astype(np.int64)
