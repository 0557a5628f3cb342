"""What is evaluated, on what, and how it is read: the same for every protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file

from .. import checkpoint as checkpoints
from .. import methods
from ..data.source import Source, kind_of, open_source
from ..errors import DataError
from ..methods.method import Method
from ..recipe import Recipe, load

Advance = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]  # what is counted, and how many there are
BY_PATCHES = {"mae", "gmml", "relvit"}  # methods whose loss says nothing about the class token


@contextmanager
def silently(what: str, total: int) -> Iterator[Advance]:
    """No progress is shown."""
    yield lambda count: None


@dataclass(frozen=True, slots=True)
class Options:
    """How it is measured. Each protocol reads some of them; see `READ` in `evaluate/__init__.py`."""

    batch_size: int = 128  # images at a time
    workers: int = 2
    device: str = "auto"
    limit: int | None = None  # images of either split
    features: str | None = None  # None: what the protocol says
    variant: str | None = None
    views: int = 1  # crops of every training image beside itself
    epochs: int | None = None
    half: bool = False
    seed: int = 0
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    progress: Progress = silently


class Subject(NamedTuple):
    """A checkpoint, opened."""

    recipe: Recipe
    step: int
    method: Method


def base_of(recipe: Recipe) -> str:
    """The method, or the one that DILEMMA is laid over."""
    return str(getattr(recipe.method, "base", recipe.method.name))


def kinds_of(recipe: Recipe) -> tuple[str, ...]:
    """Features that are worth a look: the class token, and the patches' mean where the loss is about patches, or the
    norm of that mean where the loss is of it."""
    if getattr(recipe.method, "pool", None) == "mean_norm":
        return ("mean_norm",)
    return ("class", "mean") if base_of(recipe) in BY_PATCHES else ("class",)


def open_method(checkpoint: Path) -> Subject:
    """The method of a checkpoint folder, or of a run folder's newest one, on the CPU."""
    found = checkpoints.named(checkpoint)
    recipe = load(found / checkpoints.RECIPE, short=False)
    bare = recipe.encoder.model_copy(update={"weights": None})  # where it began may be gone by now
    method = methods.find(recipe.method.name)(recipe.method, bare)
    method.load_state_dict(load_file(found / checkpoints.WEIGHTS))
    return Subject(recipe, int(json.loads((found / checkpoints.STATE).read_text())["step"]), method)


def open_splits(recipe: Recipe, data: Path | None) -> tuple[Source, Source | None]:
    """Training images and the second split, if there is one, of a folder or of the data of the recipe."""
    named = {} if data is None else {"source": kind_of(data), "root": str(data), "val": None}
    where = recipe.data.model_copy(update=named)
    train = open_source(where, recipe.run.seed)
    assert train is not None  # only a second split may be absent
    return train, open_source(where, recipe.run.seed, "val")


def labelled(recipe: Recipe, data: Path | None, protocol: str) -> tuple[Source, Source | None]:
    """The same, refused where there is nothing to tell apart."""
    train, val = open_splits(recipe, data)
    where = f"data.root: {recipe.data.root}" if data is None else f"--data {data}"
    if train.classes is None:
        raise DataError(f"{where}: no classes here; --protocol {protocol} needs a folder for each class")
    if len(train.classes) < 2:
        raise DataError(f"{where}: one class, {train.classes[0]}; --protocol {protocol} needs two or more")
    if val is not None and val.classes != train.classes:
        raise DataError(f"{where}: the second split has no classes, or others than the training images")
    return train, val
