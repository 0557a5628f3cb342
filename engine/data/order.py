"""Which images a step sees: a function of (seed, step), found without running through the steps before it."""

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Ids = NDArray[np.int64]


class Order:
    """An endless stream of shuffled epochs, cut into steps of `batch_size`; an epoch's incomplete end is dropped.

    A step is `accumulate` equal parts, and of each of these rank r takes the r-th of `world` contiguous ones.
    ValueError where the parts are not equal, DataError where the images do not fill one step.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, accumulate: int = 1, rank: int = 0, world: int = 1):
        if batch_size % (accumulate * world):
            raise ValueError(
                f"batch_size: {batch_size}; must be divisible by accumulate * world, {accumulate} * {world}"
            )
        if length < batch_size:
            raise DataError(
                f"data.batch_size: {batch_size} is more than the {length} images there are; must be at most {length}"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.steps_per_epoch = length // batch_size
        self._shuffled: tuple[int, Ids] | None = None

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def ids(self, step: int, micro: int) -> Ids:
        """The sample ids of this rank's part of a micro-batch: [batch_size / accumulate / world]"""
        share = self.batch_size // self.accumulate // self.world
        within = step % self.steps_per_epoch
        start = within * self.batch_size + (micro * self.world + self.rank) * share
        return self.permutation(self.epoch(step))[start : start + share]

    def permutation(self, epoch: int) -> Ids:
        if self._shuffled is None or self._shuffled[0] != epoch:
            key = np.array([self.seed, epoch], np.uint64)
            shuffled = np.random.Generator(np.random.Philox(key=key)).permutation(self.length)
            self._shuffled = epoch, shuffled
        return self._shuffled[1]
