"""Which samples a step sees: a function of (seed, step), found without running through the steps before it."""

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Ids = NDArray[np.int64]


class Order:
    """An endless stream of shuffled epochs, cut into steps of `batch_size`; an epoch's incomplete end is dropped.

    A step is `accumulate` equal parts, and of each of these rank r takes the r-th of `world` contiguous ones.
    With `repeats` (repeated augmentation; Hoffer et al., arXiv:1901.09335) an epoch has as many samples as ever, but
    they are `repeats` copies of each of length / repeats images, side by side in the stream, so that few images are
    divided between two steps. Sample id copy * length + image is a copy of an image; within a step the first copies
    come first, so that neighbours are different images.
    ValueError where the parts are not equal, DataError where the images do not fill one step.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        repeats: int = 1,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
    ):
        if batch_size % (accumulate * world):
            raise ValueError(
                f"batch_size: {batch_size}; must be divisible by accumulate * world, {accumulate} * {world}"
            )
        if length < batch_size:
            raise DataError(
                f"data.batch_size: {batch_size} is more than the {length} images there are; must be at most {length}"
            )
        self.length, self.batch_size, self.seed, self.repeats = length, batch_size, seed, repeats
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.steps_per_epoch = length // batch_size
        self._shuffled: tuple[int, Ids] | None = None

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def ids(self, step: int, micro: int) -> Ids:
        """The sample ids of this rank's part of a micro-batch: [batch_size / accumulate / world]"""
        share = self.batch_size // self.accumulate // self.world
        start = (micro * self.world + self.rank) * share
        return self.together(step)[start : start + share]

    def together(self, step: int) -> Ids:
        """The sample ids of a step, of all ranks and micro-batches: [batch_size]"""
        start = step % self.steps_per_epoch * self.batch_size
        places = np.arange(start, start + self.batch_size)
        copies = places % self.repeats
        first = np.argsort(copies, kind="stable")
        return (copies * self.length + self.permutation(self.epoch(step))[places // self.repeats])[first]

    def permutation(self, epoch: int) -> Ids:
        if self._shuffled is None or self._shuffled[0] != epoch:
            key = np.array([self.seed, epoch], np.uint64)
            shuffled = np.random.Generator(np.random.Philox(key=key)).permutation(self.length)
            self._shuffled = epoch, shuffled
        return self._shuffled[1]
