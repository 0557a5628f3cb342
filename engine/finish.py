"""What a run leaves behind when its budget is used: an exported encoder and a first evaluation."""

from __future__ import annotations

import json
import logging

import torch

from . import methods
from .data.source import Source
from .evaluate import knn
from .export import snippet, write
from .methods.method import Method
from .recipe import Recipe
from .run_folder import RunFolder

log = logging.getLogger("vitkiln")


def finish(method: Method, source: Source, recipe: Recipe, folder: RunFolder, device: torch.device, step: int) -> None:
    """Export, evaluate where there are labels, and mark the run as finished."""
    exported = write(method.backbone(), folder.path / "export", recipe, step)
    if recipe.run.knn and source.classes:
        torch.manual_seed(recipe.run.seed)  # the encoder as it was before the first step
        untrained = methods.find(recipe.method.name)(recipe.method, recipe.encoder).backbone()
        result = knn.trained_and_untrained(method.backbone(), untrained, recipe, source, device)
        (folder.path / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
        log.info(knn.told(result))
    folder.status("finished", step=step)
    log.info("encoder %s; in timm:\n%s", exported, snippet(exported, recipe.encoder))
