"""The accuracy of a method's own classifier on images that it does not learn from, during a run and at its end."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from . import distributed
from .data.source import open_source
from .evaluate.top1 import top1
from .pace import Pace

if TYPE_CHECKING:
    from .report import Reporter
    from .train import Trainer

log = logging.getLogger("vitkiln")


def due(pace: Pace) -> bool:
    """Whether the step just taken completed another `run.evaluate_every` epochs, and is not the last."""
    every = pace.run.evaluate_every
    if every is None or pace.done:
        return False
    return int(pace.epoch / every) > int((pace.step - 1) / pace.steps_per_epoch / every)


def accuracy(trainer: Trainer) -> dict[str, Any] | None:
    """Top-1 on the second split; None where there is none, or no classifier."""
    recipe = trainer.recipe
    val = open_source(recipe.data, recipe.run.seed, "val") if trainer.method.classifies() else None
    if val is None or val.classes is None:
        return None
    return top1(trainer.method, val, device=trainer.device, workers=recipe.data.workers, limit=recipe.run.knn_images)


def validate(trainer: Trainer, reporter: Reporter) -> float:
    """Report the accuracy from the first rank, when it is time; returns the seconds taken, which are not training."""
    if not due(trainer.pace):
        return 0.0
    began = time.perf_counter()
    found = accuracy(trainer) if distributed.is_first() else None
    if found:
        reporter.accuracy(curve_point(trainer.pace, found))
    return time.perf_counter() - began


def curve_point(pace: Pace, found: dict[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl."""
    return {"step": pace.step, "epoch": pace.epoch, "val_top1": found["top1"], "seconds": pace.seconds}
