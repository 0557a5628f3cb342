"""The published search for categories in NumPy: one legacy Mersenne Twister gives formulas and trajectories in turn."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .reference import traced

WORDS = 624  # of the generator's state
MOST = 7  # maps of a formula


def seeded(seed: int) -> Tensor:
    """The state of a generator seeded as published: 624 words and the position among them, int64 [625]"""
    return packed(np.random.RandomState(seed))


def packed(generator: np.random.RandomState) -> Tensor:
    """Its state as a tensor."""
    state: Any = generator.get_state(legacy=True)
    return torch.from_numpy(np.append(state[1].astype(np.int64), state[2]))


def opened(state: Tensor) -> np.random.RandomState:
    """A generator that goes on from a state."""
    numbers = state.numpy()
    generator = np.random.RandomState()
    generator.set_state(("MT19937", numbers[:WORDS].astype(np.uint32), int(numbers[WORDS]), 0, 0.0))
    return generator


def candidate(
    generator: np.random.RandomState, size: int, points: int
) -> tuple[np.ndarray, np.ndarray, int, int, bool]:
    """maps [7, 6], probabilities [7], their number, pixels lit, whether all points are finite."""
    count = int(generator.randint(2, MOST + 1))
    maps, probabilities = np.zeros((MOST, 6)), np.zeros(MOST)
    for row in range(count):
        maps[row] = generator.uniform(-1, 1, 6)
    areas = [abs(a * d - b * c) for a, b, c, d, _, _ in maps[:count].tolist()]
    total = 0.0
    for area in areas:
        total += area
    probabilities[:count] = [area / total for area in areas]
    where, finite = traced(maps, probabilities, generator.random_sample(points), size)
    return maps, probabilities, count, len(np.unique(where[1] * size + where[0])), finite


def search(state: Tensor, count: int, size: int, points: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See search_fractals."""
    generator = opened(state)
    found = [candidate(generator, size, points) for _ in range(count)]
    maps, probabilities, counts, lit, finite = zip(*found, strict=True)
    arrays = torch.from_numpy(np.stack(maps)), torch.from_numpy(np.stack(probabilities))
    return (*arrays, torch.tensor(counts), torch.tensor(lit), torch.tensor(finite), packed(generator))
