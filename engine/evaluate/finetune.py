"""Fine-tuning: how good a classifier does an encoder become when all of it is trained on?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import checkpoint as checkpoints
from .. import train
from ..data.source import kind_of
from ..device import pick_device
from ..errors import DataError
from ..recipe import Recipe, load
from .subject import labelled, open_method
from .top1 import top1

RECIPE = "finetune"
OF_TUNING = {"weights", "position", "init", "drop_path", "freeze_patch_embed"}  # what the recipe says of its encoder
OF_TRAINING = {"batch_size", "repeats"}  # and of its data


def evaluate(
    checkpoint: Path, data: Path | None, overrides: Sequence[str] = (), out: Path | None = None
) -> dict[str, Any]:
    """Train the shipped recipe `finetune` from a checkpoint's encoder; top-1 in percent on the second split.

    `checkpoint` is a checkpoint, or a run folder whose newest one is meant; `data` a folder with train/ and val/ (or
    test/), None the data that the checkpoint was trained on. The encoder's shape and normalisation are the
    checkpoint's, the rest is the recipe's, of which `overrides` (`key.sub=value`) change any. `out` is the run folder;
    the same call goes on with an interrupted run. RecipeError and DataError where these do not fit.
    """
    recipe = tuned(checkpoint, data, overrides)
    _, val = labelled(recipe, None, "finetune")
    if val is None:
        where = recipe.data.root if data is None else f"--data {data}"
        raise DataError(f"{where}: no second split; fine-tuning is measured on val/ or test/ beside train/")
    folder = train.run(recipe, out)
    subject, device = open_method(folder), pick_device(recipe.run.device)
    found = top1(subject.method.to(device), val, device=device, workers=recipe.data.workers)
    return {
        "protocol": "finetune",
        "checkpoint": str(checkpoint),
        "run": str(folder),
        "step": subject.step,
        **found,
        "split": "val",
    }


def tuned(checkpoint: Path, data: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of fine-tuning, with the encoder and, where no data are named, with the data of the checkpoint."""
    found = checkpoints.named(checkpoint)
    before = load(found / checkpoints.RECIPE, short=False)
    own = OF_TUNING if before.encoder.plain else OF_TUNING - {"position", "init"}
    kept = [("encoder", key, value) for key, value in before.encoder if key not in own]
    kept.append(("encoder", "weights", str(found)))
    if data is None:
        kept += [("data", key, value) for key, value in before.data if key not in OF_TRAINING]
    else:
        kept += [("data", "source", kind_of(data)), ("data", "root", str(data))]
    written = [f"{section}.{key}={json.dumps(value)}" for section, key, value in kept]
    return load(RECIPE, [*written, *overrides], short=data is None and before.data.source == "fractal")
