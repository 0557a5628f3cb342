"""Batches with as many images of one class as of another: what a loss over pairs of a class needs."""

from typing import Any

import numpy as np

from ..errors import DataError
from .order import Ids, Order
from .source import Source


class Balanced(Order):
    """Every micro-batch is `classes` classes with m images of each, those of a class side by side.

    Classes come in shuffled rounds, none twice in a micro-batch and each as often as any other, give or take one. The
    images of a class come in a shuffled order, m at a time; when fewer are left it is shuffled anew, and the same
    image has another sample id then (round * length + image), so that it is cut anew. An epoch is as long as ever:
    where classes are of equal size, and their number and size divide, it shows every image once.

    A function of (seed, step) as any order is: what an epoch shows is found from its own random numbers.
    ValueError where micro-batches do not divide into classes or classes into ranks; DataError where there are no
    labels, fewer classes than asked for, or fewer images in a class than it has in a micro-batch.
    """

    def __init__(self, source: Source, batch_size: int, *, classes: int, **how: Any):
        super().__init__(len(source), batch_size, **how)
        if self.part % classes or classes % self.world or self.repeats > 1:
            raise ValueError(
                f"classes: {classes}; must divide the micro-batch, {self.part} images, and be a multiple of the "
                f"{self.world} ranks, with repeats 1 and not {self.repeats}"
            )
        self.classes, self.each = classes, self.part // classes
        self.images = by_class(source)
        self.refuse(source)

    def refuse(self, source: Source) -> None:
        """Data that cannot fill one micro-batch."""
        key = f"data.classes_per_batch: {self.classes}"
        if source.classes is None:
            raise DataError(f"{key} needs labels; the data must be a folder for each class")
        if len(source.classes) < self.classes:
            raise DataError(f"{key}; the data have {len(source.classes)} classes, so it must be at most that")
        for name, images in zip(source.classes, self.images, strict=True):
            if len(images) < self.each:
                raise DataError(
                    f"{key} classes of {self.each} images each; class {name!r} has {len(images)}: take a smaller "
                    "data.batch_size, more classes, or that class out"
                )

    def drawn(self, generator: np.random.Generator) -> Ids:
        turns = self.rounds(generator)
        found = np.empty((len(turns), self.each), np.int64)
        places = np.argsort(turns, kind="stable")
        ends = np.searchsorted(turns[places], np.arange(len(self.images)), side="right")
        for images, where in zip(self.images, np.split(places, ends[:-1]), strict=True):
            found[where] = self.groups(generator, images, len(where))
        return found.ravel()

    def rounds(self, generator: np.random.Generator) -> Ids:
        """The classes of an epoch's micro-batches, end to end: [parts_per_epoch * classes]"""
        count, wanted = len(self.images), self.parts_per_epoch * self.classes
        rounds: list[Ids] = []
        begun = np.empty(0, np.int64)  # classes of the micro-batch that the last round could not fill
        while len(rounds) * count < wanted:
            shuffled = generator.permutation(count)
            first = shuffled[~np.isin(shuffled, begun)][: -len(rounds) * count % self.classes]
            rounds.append(np.concatenate([first, shuffled[~np.isin(shuffled, first)]]))
            begun = rounds[-1][count - len(rounds) * count % self.classes :]
        return np.concatenate(rounds)[:wanted]

    def groups(self, generator: np.random.Generator, images: Ids, count: int) -> Ids:
        """Sample ids of a class for so many micro-batches: [count, each]"""
        size = len(images) // self.each * self.each
        rounds = [
            generator.permutation(images)[:size] + number * self.length
            for number in range(-(-count * self.each // size))
        ]
        return np.concatenate([np.empty(0, np.int64), *rounds]).reshape(-1, self.each)[:count]


def by_class(source: Source) -> list[Ids]:
    """The images of each class."""
    labels = np.fromiter(map(source.label, range(len(source))), np.int64, len(source))
    count = len(source.classes or ())
    places = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[places], np.arange(count), side="right")
    return np.split(places, ends[:-1]) if count else []


def order_of(source: Source, batch_size: int, classes: int | None, **how: Any) -> Order:
    """The order of a source: balanced over so many classes in each micro-batch, or plain where that is None."""
    if classes is None:
        return Order(len(source), batch_size, **how)
    return Balanced(source, batch_size, classes=classes, **how)
