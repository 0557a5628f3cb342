"""Iterated function systems: the formulas whose attractors are pictures, their variations, and their files."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Array = NDArray[np.float64]
SHIPPED = Path(__file__).with_name("categories.csv")  # the first of seed 1, found by `engine fractal search`
COLUMNS = "a,b,c,d,e,f,p"
TRAINING = (-2, -1, 0, 1, 2)  # steps of the variation away from 1
HELD_OUT = (-1.5, -0.5, 0.5, 1.5)
SPLITS = ("train", "val")
SUM = 1e-6  # by which probabilities may miss 1


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """Maps (x, y) -> (ax + by + e, cx + dy + f) and how likely each is to come next."""

    maps: Array  # [k, 6]
    probabilities: Array  # [k]


def weight_rows(variation: float = 0.4, steps: Sequence[float] = TRAINING) -> Array:
    """[25, 6]: one of the six parameters times one of the factors 1 + step * variation, the identity once.

    >>> weight_rows()[2].tolist(), weight_rows()[-1].tolist()
    ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.8])
    """
    rows = [(column, step) for column in range(6) for step in steps if column == 0 or step]
    weights = np.ones((len(rows), 6))
    for row, (column, step) in enumerate(rows):
        weights[row, column] = round(1 + step * variation, 12)
    return weights


def write_formula(file: Path, formula: Formula) -> None:
    """One row `a,b,c,d,e,f,p` for each map, with all digits; the file is there whole or not at all."""
    rows = zip(formula.maps.tolist(), formula.probabilities.tolist(), strict=True)
    draft = file.with_suffix(".tmp")
    draft.write_text("".join(",".join(map(repr, [*row, p])) + "\n" for row, p in rows))
    draft.replace(file)


def read_formula(file: Path) -> Formula:
    """DataError, naming the file and what is wrong, where it is not such a table."""
    try:
        lines = [line for line in csv.reader(file.read_text().splitlines()) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return formula([numbers(line, f"{file} line {place}") for place, line in enumerate(lines, 1)], str(file))


def numbers(line: Sequence[str], where: str) -> list[float]:
    """The seven of a row."""
    if len(line) != 7:
        raise DataError(f"{where}: {len(line)} columns; must be the seven {COLUMNS}")
    for text in line:
        try:
            finite = math.isfinite(float(text))
        except ValueError:
            finite = False
        if not finite:
            raise DataError(f"{where}: {text!r}; must be a finite number")
    return [float(text) for text in line]


def formula(rows: Sequence[Sequence[float]], where: str) -> Formula:
    """From rows of seven numbers; DataError where they are no formula."""
    if not rows:
        raise DataError(f"{where}: no map; must hold a row {COLUMNS} for each")
    table = np.array(rows)
    chances = table[:, 6]
    if chances.min() < 0 or abs(chances.sum() - 1) > SUM:
        raise DataError(
            f"{where}: probabilities {chances.min():g} and more, {chances.sum():g} together; "
            "the last column must not be negative and must sum to 1"
        )
    return Formula(np.ascontiguousarray(table[:, :6]), np.ascontiguousarray(chances))


def read_formulas(root: str, count: int) -> list[Formula]:
    """The first `count` files *.csv of a folder in the order of their names; DataError where there are fewer."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"data.categories_root: {str(folder)!r} {what}; must be a folder of 00000.csv, ...")
    files = sorted(folder.glob("*.csv"))
    if len(files) < count:
        raise DataError(f"data.categories: {count}; {str(folder)!r} holds {len(files)} files *.csv")
    return [read_formula(file) for file in files[:count]]


def shipped() -> list[Formula]:
    """The first 64 categories that the published rule finds with seed 1."""
    rows: dict[int, list[list[float]]] = {}
    with SHIPPED.open() as file:
        for category, *line in csv.reader(file):
            if category != "category":
                rows.setdefault(int(category), []).append([float(text) for text in line])
    return [formula(rows[category], SHIPPED.name) for category in sorted(rows)]


def stream(seed: int, category: int, *counter: int) -> np.random.Generator:
    """The random numbers of one part of one category; at most three numbers count."""
    key = np.array([seed, category], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, *counter, 0, 0][:4], np.uint64)))
