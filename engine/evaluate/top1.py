"""How many images a method's own classifier puts in the right class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..data.source import Source
from ..device import pick_device
from ..errors import DataError, RecipeError
from ..methods.method import Method
from .images import Still, images_of, labels_of, pictures, subset
from .subject import Advance, Options, labelled, open_method


@torch.inference_mode()
def top1(
    method: Method,
    source: Source,
    *,
    device: torch.device,
    batch_size: int = 128,
    workers: int = 2,
    limit: int | None = None,
    advance: Advance = lambda count: None,
) -> dict[str, Any]:
    """Share of images whose largest logit is their label's, in percent, and how many images of how many classes.

    In full precision, each image as `Still` cuts it. RecipeError where the method has no classifier, DataError where
    the images have no labels or more classes than it.
    """
    if source.classes is None:
        raise DataError("the images to evaluate on have no classes; the accuracy of a classifier needs their labels")
    was_training, right, count = method.training, torch.zeros((), dtype=torch.int64, device=device), 0
    how = Still(method.backbone().settings.image_size)
    method.eval()
    try:
        images = subset(len(source), limit, 0)
        for pixels, numbers in pictures(source, how, images, batch_size=batch_size, workers=workers):
            logits = predicted(method, pixels.to(device), len(source.classes))
            right += (logits.argmax(1) == labels_of(source, numbers).to(device)).sum()
            count += len(numbers)
            advance(len(numbers))
    finally:
        method.train(was_training)
    return {"top1": round(100 * int(right) / count, 2), "images": count, "classes": len(source.classes)}


def predicted(method: Method, pixels: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits, of enough classes."""
    logits = method.predict(pixels)
    if logits is None:
        name = type(method).__name__
        raise RecipeError(f"{name} has no classifier, so no top-1; use --protocol knn, linear or finetune")
    if logits.shape[1] < classes:
        raise DataError(f"the images have {classes} classes, the checkpoint's classifier {logits.shape[1]}")
    return logits


def evaluate(checkpoint: Path, data: Path | None, options: Options) -> dict[str, Any]:
    """top1 of a checkpoint on the second split of a folder, or of the data that it was trained on."""
    subject = open_method(checkpoint)
    _, val = labelled(subject.recipe, data, "top1")
    if val is None:
        where = subject.recipe.data.root if data is None else f"--data {data}"
        raise DataError(f"{where}: no second split; top-1 is measured on val/ or test/ beside train/")
    device = pick_device(options.device)
    with options.progress("images", images_of(options.limit, val)) as advance:
        found = top1(
            subject.method.to(device),
            val,
            device=device,
            batch_size=options.batch_size,
            workers=options.workers,
            limit=options.limit,
            advance=advance,
        )
    return {"protocol": "top1", "checkpoint": str(checkpoint), "step": subject.step, **found, "split": "val"}
