"""What a run leaves behind when its budget is used: an exported encoder and a first evaluation."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import torch

from . import methods
from .evaluate import isotropy, knn
from .export import snippet, write
from .run_folder import RunFolder
from .validation import accuracy, curve_point
from .vit import ViT

if TYPE_CHECKING:
    from .train import Trainer

log = logging.getLogger("vitkiln")


def finish(trainer: Trainer, folder: RunFolder) -> None:
    """Export, evaluate where there are labels, and mark the run as finished."""
    recipe, step = trainer.recipe, trainer.pace.step
    artist = getattr(trainer.source, "artist", None)
    if artist and (replaced := artist.told()):
        log.info(replaced)
    exported = write(trainer.method.backbone(), folder.path / "export", recipe, step)
    report_accuracy(trainer, folder)
    if recipe.run.knn and trainer.source.classes:
        nearest_neighbours(trainer, folder)
    if recipe.run.knn and trainer.method.spreads:
        spread(trainer, folder)
    folder.status("finished", step=step)
    log.info("encoder %s; to load it:\n%s", exported, snippet(exported, recipe.encoder))


def report_accuracy(trainer: Trainer, folder: RunFolder) -> None:
    """Of the method's classifier, if it has one."""
    found = accuracy(trainer)
    if found is None:
        return
    (folder.path / "evaluation-top1.json").write_text(json.dumps(found, indent=1) + "\n")
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(curve_point(trainer.pace, found)) + "\n")
    log.info("top-1: %.2f%% of %d images of val, %d classes", found["top1"], found["images"], found["classes"])


def nearest_neighbours(trainer: Trainer, folder: RunFolder) -> None:
    """Of the encoder, beside the one that it began as."""
    recipe, untrained = trainer.recipe, as_it_began(trainer)
    result = knn.trained_and_untrained(trainer.method.backbone(), untrained, recipe, trainer.source, trainer.device)
    (folder.path / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    log.info(knn.told(result))


def spread(trainer: Trainer, folder: RunFolder) -> None:
    """How evenly features use their directions: of the encoder, before and after."""
    before, recipe = as_it_began(trainer), trainer.recipe
    result = isotropy.before_and_after(before, trainer.method.backbone(), recipe, trainer.source, trainer.device)
    (folder.path / "evaluation-isotropy.json").write_text(json.dumps(result, indent=1) + "\n")
    log.info(isotropy.told(result))


def as_it_began(trainer: Trainer) -> ViT:
    """The encoder before the first step: drawn, or with the weights that the recipe names."""
    recipe = trainer.recipe
    torch.manual_seed(recipe.run.seed)
    return methods.find(recipe.method.name)(recipe.method, recipe.encoder).backbone()
