"""Iterated function systems: the formulas whose attractors are pictures, and how their points are found.

A category is k = 2..7 maps x -> [[a, b], [c, d]] x + (e, f), all six numbers from U(-1, 1), chosen with probability
proportional to |ad - bc|. It is accepted where its attractor fills enough of the canvas. This is not FractalDB's
published search (Kataoka et al., arXiv:2101.08515), which follows one orbit of 100,000 points on 512 x 512 pixels and
draws its numbers in one sequence: here many short orbits run side by side on a small canvas, and every category's
numbers are its own, so that each can be found without the others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CATEGORY, SETTLE = (
    1 << 62,
    24,
)  # a part of the counter apart from the instances'; steps before a point is kept
CANVAS, CHAINS, STEPS = 64, 64, 64
FILL = 0.33  # of 64 x 64 by 4,096 points, where the published search asks 0.2 of 512 x 512 by 100,000
LARGEST = 1e6  # a coordinate beyond it has left for infinity
FACTORS = (0.2, 0.6, 1.0, 1.4, 1.8)
PAD = 6


@dataclass(frozen=True, slots=True)
class System:
    """The maps of a category [k, 6] and the running sum of their probabilities [k]."""

    maps: Array
    cumulative: Array


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


def search(seed: int, category: int) -> System:
    """The first accepted candidate of this category's own sequence."""
    key = np.array([seed, category], np.uint64)
    attempt = 0
    while True:
        counter = np.array([0, attempt, 0, CATEGORY], np.uint64)
        numbers = np.random.Generator(np.random.Philox(key=key, counter=counter))
        system = candidate(numbers)
        points = orbits(system, numbers.random((SETTLE + STEPS, CHAINS)))
        if points is not None and fill(points) >= FILL:
            return system
        attempt += 1


def candidate(numbers: np.random.Generator) -> System:
    maps = numbers.uniform(-1, 1, (int(numbers.integers(2, 8)), 6))
    areas = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2])
    return System(maps, np.cumsum(areas / areas.sum()))


def orbits(system: System, choices: Array) -> Array | None:
    """Points [T - 24, chains, 2] of orbits from the origin, whose maps the uniform `choices` [T, chains] select; None
    where one diverges."""
    chosen = np.minimum(np.searchsorted(system.cumulative, choices), len(system.maps) - 1)
    a, b, c, d, e, f = np.moveaxis(system.maps.astype(np.float64)[chosen], -1, 0)
    points = np.empty((len(choices), choices.shape[1], 2))
    x = y = np.zeros(choices.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(len(choices)):
            x, y = a[t] * x + b[t] * y + e[t], c[t] * x + d[t] * y + f[t]
            points[t, :, 0], points[t, :, 1] = x, y
    kept = points[SETTLE:]
    return kept if np.abs(kept).max(initial=0.0) < LARGEST else None  # False for NaN


def fill(points: Array) -> float:
    """The share of a small canvas that is lit."""
    cells = pixels(points, CANVAS, PAD)
    return len(np.unique(cells[..., 1] * CANVAS + cells[..., 0])) / CANVAS**2


def pixels(points: Array, size: int, pad: int) -> NDArray[np.int64]:
    """x and y, each stretched by itself over the canvas but for a border of `pad`: int64 [N, 2]"""
    flat = points.reshape(-1, 2)
    low = flat.min(0)
    extent = np.maximum(flat.max(0) - low, np.finfo(np.float64).tiny)
    return ((flat - low) / extent * (size - 2 * pad) + pad).astype(np.int64)
