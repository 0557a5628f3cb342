"""Which samples a step sees: a function of (seed, step), found without running through the steps before it."""

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Ids = NDArray[np.int64]


class Order:
    """An endless stream of shuffled epochs, cut into steps of `batch_size`; an epoch's incomplete end is dropped.

    A step is `accumulate` equal parts, and of each of these rank r takes the r-th of `world` contiguous ones. With
    `leftover` the whole parts at the end of an epoch that fill no step are a step of their own, a shorter one.
    With `repeats` (repeated augmentation; Hoffer et al., arXiv:1901.09335) an epoch has as many samples as ever, but
    they are `repeats` copies of each of length / repeats images, side by side in the stream, so that few images are
    divided between two steps. Sample id copy * length + image is a copy of an image; within a step the first copies
    come first, so that neighbours are different images.
    ValueError where the parts are not equal, DataError where the images do not fill one step (`leftover`: one part).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        repeats: int = 1,
        accumulate: int = 1,
        leftover: bool = False,
        rank: int = 0,
        world: int = 1,
    ):
        if batch_size % (accumulate * world):
            raise ValueError(
                f"batch_size: {batch_size}; must be divisible by accumulate * world, {accumulate} * {world}"
            )
        self.part = batch_size // accumulate
        least = self.part if leftover else batch_size
        if length < least:
            parts = f" in {accumulate} parts, {least} images each," if least < batch_size else ""
            raise DataError(
                f"data.batch_size: {batch_size}{parts} is more than the {length} images there are; "
                f"must be at most {length * batch_size // least}"
            )
        self.length, self.batch_size, self.seed, self.repeats = length, batch_size, seed, repeats
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self.parts_per_epoch = length // least * (least // self.part)
        self.steps_per_epoch = -(-self.parts_per_epoch // accumulate)
        self._shuffled: tuple[int, Ids] | None = None

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def parts(self, step: int) -> int:
        """Micro-batches of a step: `accumulate`, or as many as are left at the end of an epoch."""
        return min(self.accumulate, self.parts_per_epoch - step % self.steps_per_epoch * self.accumulate)

    def ids(self, step: int, micro: int) -> Ids:
        """The sample ids of this rank's part of a micro-batch: [batch_size / accumulate / world]"""
        share = self.part // self.world
        start = (micro * self.world + self.rank) * share
        return self.together(step)[start : start + share]

    def together(self, step: int) -> Ids:
        """The sample ids of a step, of all ranks and micro-batches: [parts * batch_size / accumulate]"""
        start = step % self.steps_per_epoch * self.batch_size
        places = np.arange(start, start + self.parts(step) * self.part)
        copies = places % self.repeats
        first = np.argsort(copies, kind="stable")
        return (copies * self.length + self.shuffled(self.epoch(step))[places // self.repeats])[first]

    def shuffled(self, epoch: int) -> Ids:
        """The images of an epoch in their order; the last one asked for is kept."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            key = np.array([self.seed, epoch], np.uint64)
            self._shuffled = epoch, self.drawn(np.random.Generator(np.random.Philox(key=key)))
        return self._shuffled[1]

    def drawn(self, generator: np.random.Generator) -> Ids:
        """An epoch, from its own random numbers."""
        return generator.permutation(self.length)
