"""The instances of a category of FractalDB: which variation of the formula, which patches, which way up."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..settings.formulas import Formulas
from .fractal_points import Points, exact, fast, trace
from .ifs import HELD_OUT, SPLITS, TRAINING, Formula, stream, weight_rows
from .source import BadImage, Split

FLIPS = 4
UNKNOWN, SHOWN, BLANK, DIVERGENT = range(4)
BLANK_SHARE = 0.01  # of the pixels that so many points could light: FractalDB's own nearly blank pictures
PATCHES, OTHERS = 4, 6  # parts of the counter, apart from those of contours


class Instances:
    """Instance -> variation instance % V, flip instance // V % 4, patches instance // 4V (FractalDB; arXiv:2101.08515).

    V is 25 in training, the formula itself first; 24 others, half-way between these, for "val". The four flips of a
    picture share its patches. Where a variation diverges or shows nearly nothing another is drawn in its place, a
    function of (seed, category, variation, patches), unless `official`.
    """

    def __init__(self, data: Formulas, formulas: Sequence[Formula], seed: int, split: Split):
        self.data, self.formulas, self.seed, self.split = data, formulas, seed, SPLITS.index(split)
        weights = weight_rows(data.variation, TRAINING if split == "train" else HELD_OUT)
        plain_first = np.argsort((weights != 1).any(1), kind="stable")
        self.weights = weights[plain_first]
        self.known = Shelf(data.fractal_cache << 20)
        self.replaced = 0  # pictures of which another variation was drawn, in this process
        self.states = torch.zeros(len(formulas), len(weights), dtype=torch.uint8).share_memory_()  # of all workers
        self.points(0, 0)  # operators are compiled and loaded here, before there are workers

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "known": Shelf(self.known.limit)}

    def draw(self, category: int, instance: int) -> NDArray[np.uint8]:
        wanted, flip, redraw = self.place(instance)
        variation = wanted if self.data.official else self.usable(category, wanted, redraw)
        self.replaced += variation != wanted
        key = int(stream(self.seed, category, PATCHES + self.split, variation, redraw).integers(1 << 62))
        return flipped(self.picture(category, variation, key), flip)

    def place(self, instance: int) -> tuple[int, int, int]:
        """Variation, flip and number of the draw of patches."""
        rest, variation = divmod(instance, len(self.weights))
        return variation, rest % FLIPS, rest // FLIPS

    def usable(self, category: int, variation: int, redraw: int) -> int:
        """This variation, or the first in a random order that shows something."""
        if self.state(category, variation) == SHOWN:
            return variation
        others = stream(self.seed, category, OTHERS + self.split, variation, redraw).permutation(len(self.weights))
        for other in others.tolist():
            if self.state(category, other) == SHOWN:
                return int(other)
        raise BadImage(f"fractal category {category}", "every variation of it diverges or shows nearly nothing")

    def state(self, category: int, variation: int) -> int:
        if self.states[category, variation] == UNKNOWN:
            self.points(category, variation)
        return int(self.states[category, variation])

    def points(self, category: int, variation: int) -> Points:
        """From the shelf, or followed anew."""

        def follow() -> Points:
            found = trace(self.formulas[category], self.weights[variation], self.data)
            blank = found.lit < BLANK_SHARE * min(self.data.fractal_size**2, self.data.fractal_points)
            self.states[category, variation] = DIVERGENT if not found.finite else BLANK if blank else SHOWN
            return found

        return self.known.get((category, variation), follow)

    def picture(self, category: int, variation: int, key: int) -> NDArray[np.uint8]:
        if self.data.render == "exact":
            return exact(self.formulas[category], self.weights[variation], key, self.data)
        return fast(self.points(category, variation), key, self.data)

    def told(self) -> str | None:
        """How many variations cannot be shown, of those that were asked for."""
        counts = torch.bincount(self.states.flatten().long(), minlength=4).tolist()
        if not counts[BLANK] + counts[DIVERGENT]:
            return None
        fate = "kept, as published" if self.data.official else "others were drawn in their place"
        return (
            f"{counts[DIVERGENT]} of {sum(counts[1:])} variations of formulas diverge and "
            f"{counts[BLANK]} are nearly blank: {fate}"
        )


class Shelf:
    """The last used points, of at most so many bytes."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self.kept: OrderedDict[tuple[int, int], Points] = OrderedDict()

    def get(self, key: tuple[int, int], make: Callable[[], Points]) -> Points:
        found = self.kept.pop(key, None)
        if found is None:
            found = make()
            self.used += found.bits.nbytes
        self.kept[key] = found
        while self.used > self.limit and len(self.kept) > 1:
            self.used -= self.kept.popitem(last=False)[1].bits.nbytes
        return found


def flipped(picture: NDArray[np.uint8], flip: int) -> NDArray[np.uint8]:
    """0 as it is, 1 upside down, 2 mirrored, 3 both."""
    rows = slice(None, None, -1 if flip & 1 else 1)
    return np.ascontiguousarray(picture[rows, :: -1 if flip & 2 else 1])
