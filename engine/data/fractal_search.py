"""The search for categories by FractalDB's rule, into a folder, so that a search that was killed goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vitkiln.kernels.fractals import Candidates, search_fractals, search_state

from ..errors import DataError, RecipeError
from .ifs import Formula, write_formula

SIZE, POINTS, FILL = 512, 100_000, 0.2  # of the published rule; the points decide which numbers are drawn next
TICK = 64  # candidates between two looks at the clock
STATE = ".search.json"


@dataclass
class Tally:
    """Where a search stands."""

    candidates: int = 0
    accepted: int = 0
    diverged: int = 0
    maps: dict[str, int] = field(default_factory=dict)  # how many categories have so many maps
    numbers: list[int] = field(default_factory=list)  # the generator's words

    def after(self, found: Candidates, until: int) -> Tally:
        """With the first `until` of these candidates."""
        taken = accepted(found)[:until]
        sizes = Counter(self.maps) + Counter(map(str, found.counts[:until][taken].tolist()))
        diverged = self.diverged + int((~found.finite[:until]).sum())
        total = self.accepted + int(taken.sum())
        return Tally(self.candidates + until, total, diverged, dict(sorted(sizes.items())), found.state.tolist())


class Search:
    """The first `categories` that are accepted, written to `out` as 00000.csv, ...; seed 1 gives FractalDB's own.

    RecipeError where the folder holds something else.
    """

    def __init__(self, out: Path, categories: int, seed: int):
        self.out, self.categories, self.seed = out, categories, seed
        self.tally = self.begun() or Tally(numbers=search_state(seed).tolist())
        self.final = self.tally
        if self.tally.accepted >= categories:
            raise RecipeError(
                f"--categories={categories}: {out} holds more already, of which the first {categories} are these"
            )

    @property
    def accepted(self) -> int:
        return self.tally.accepted

    def begun(self) -> Tally | None:
        """What the state file tells."""
        file = self.out / STATE
        if not file.exists():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise RecipeError(f"{self.out}: exists and holds no search of ours; choose an empty folder")
            return None
        try:
            told = json.loads(file.read_text())
            seed, tally = told["seed"], Tally(**told["tally"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: cannot be used ({error}); remove the folder to search anew") from None
        if seed != self.seed:
            raise RecipeError(f"--seed={self.seed}: {self.out} holds a search of seed {seed}; choose another folder")
        return tally

    def run(self, jobs: int, advance: Callable[[int], None]) -> None:
        """Until all are found, on `jobs` threads, whose number changes nothing. DataError where one cannot be written.

        The state that is kept lies before the last candidates, so that a longer search can go on from it.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(jobs)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            while self.final.accepted < self.categories:
                self.step(advance)
        except OSError as error:
            raise DataError(f"{error.filename or self.out}: {error.strerror}") from None
        finally:
            torch.set_num_threads(before)

    def step(self, advance: Callable[[int], None]) -> None:
        """The next candidates."""
        found = search_fractals(torch.tensor(self.tally.numbers), TICK, SIZE, POINTS)
        places = accepted(found).nonzero().flatten().tolist()[: self.categories - self.tally.accepted]
        for number, place in enumerate(places, self.tally.accepted):
            count = int(found.counts[place])
            maps, chances = found.maps[place, :count].numpy(), found.probabilities[place, :count].numpy()
            write_formula(self.out / f"{number:05d}.csv", Formula(maps, chances))
        complete = self.tally.accepted + len(places) == self.categories
        self.final = self.tally.after(found, places[-1] + 1 if complete else TICK)
        if not complete:
            self.tally = self.final
        self.save()
        advance(len(places))

    def save(self) -> None:
        """For the next search."""
        draft = self.out / f"{STATE}.draft"
        try:
            draft.write_text(json.dumps({"seed": self.seed, "tally": asdict(self.tally)}) + "\n")
            draft.replace(self.out / STATE)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def told(self) -> str:
        """What it took, in one line."""
        f = self.final
        sizes = ", ".join(f"{f.maps.get(str(k), 0)} of {k}" for k in range(2, 8))
        return (
            f"{f.accepted:,} categories in {f.candidates:,} candidates ({f.accepted / f.candidates:.3%} accepted, "
            f"{f.diverged:,} diverged); maps: {sizes}"
        )


def accepted(found: Candidates) -> Tensor:
    """bool [C]"""
    return found.finite & (found.lit >= FILL * SIZE**2)
