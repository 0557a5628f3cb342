"""One call of `engine bench`: what is measured, in which order, and the record that comes out of it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..device import pick_device
from ..measure import environment
from ..recipe import Recipe
from ..train import Trainer
from .compare import compare
from .measurement import Figures, Request, measure, trainer_of
from .sweep import find_batch, refuse, sweep
from .trace import trace

SCHEMA = 1


@dataclass(frozen=True)
class Wishes:
    """Of the command line. Without batches, a comparison or a search the recipe is measured as it is."""

    request: Request = field(default_factory=Request)
    batches: tuple[Recipe, ...] = ()
    compare: tuple[str, ...] = ()
    find_batch: bool = False
    trace: Path | None = None
    command: str = "engine bench"


def bench(recipe: Recipe, wishes: Wishes) -> Figures:
    """All that was asked for, as what `--json` prints and `--record` keeps."""
    if wishes.find_batch:
        refuse(recipe)
    found = about(recipe, wishes.command)
    if not (wishes.batches or wishes.compare or wishes.find_batch):
        trainer = trainer_of(recipe)
        found |= {**seen(trainer), **measure(trainer, wishes.request)}
    if wishes.batches:
        found["batches"] = sweep(wishes.batches, wishes.request)
    if wishes.compare:
        found["compare"] = compare(recipe, wishes.compare, wishes.request)
    if wishes.find_batch:
        found["largest_batch"] = find_batch(recipe, wishes.request)
    if wishes.trace:
        wishes.request.say(f"a trace of a few steps, into {wishes.trace}")
        trace(trainer_of(recipe), wishes.trace)
        found["trace"] = str(wishes.trace)
    return found


def about(recipe: Recipe, command: str) -> Figures:
    """Which recipe, on what, and how busy that is."""
    device = pick_device(recipe.run.device)
    return {
        "schema": SCHEMA,
        "suite": "bench",
        "name": recipe.name,
        "short": recipe.short_reason,
        "command": command,
        "config_sha": hashlib.sha256(recipe.to_yaml().encode()).hexdigest()[:12],
        "batch_size": recipe.data.batch_size,
        "accumulate": recipe.run.accumulate,
        "precision": recipe.run.precision,
        "compile": recipe.run.compile,
        "cuda_graph": recipe.run.cuda_graph,
        "workers": recipe.data.workers,
        "load": os.getloadavg()[0],
        "environment": environment(device),
    }


def seen(trainer: Trainer) -> Figures:
    """What only the trainer knows."""
    return {
        "loader": trainer.recipe.data.loader,
        "images": len(trainer.source),
        "views": [view.size for view in trainer.method.views()],
    }


def append(file: Path, found: Figures) -> None:
    """One line more, at once and whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(found, default=str) + "\n")
