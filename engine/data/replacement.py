"""What takes the place of an image that cannot be read: another one, the same in every run that meets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .draw import generator
from .source import BadImage

Made = TypeVar("Made")
ATTEMPTS = 32  # images tried in the place of a broken one
Bad = list[tuple[str, str]]  # path and reason


def replaced(make: Callable[[int], Made], length: int, seed: int, epoch: int, sample: int, bad: Bad) -> Made | None:
    """make(index) of a sample's image, or of one drawn in its place, among `length`; broken ones are added to `bad`.

    None where so many in a row are broken that none will be found.
    """
    index = sample % length
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return make(index)
        except BadImage as error:
            bad.append((error.path, error.reason))
        index = int(generator(seed, epoch, 0, sample, attempt).integers(length))
    return None
