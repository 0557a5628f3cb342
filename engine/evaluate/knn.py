"""Weighted nearest neighbours: how well do an encoder's features separate classes that it was never told?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.source import Source, open_source
from ..device import pick_device
from ..recipe import Recipe
from ..vit import ViT
from .features import checked, several
from .images import images_of, labels_of
from .subject import Advance, Options, kinds_of, labelled, open_method

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07


def predict(bank: Tensor, labels: Tensor, queries: Tensor, k: int, classes: int, chunk: int = 512) -> Tensor:
    """argmax_c sum over the k nearest i of [label_i = c] exp(cos(query, i) / 0.07), as DINO evaluates.

    bank [N, D], labels [N], queries [M, D] -> [M]. Features need not be of unit norm.

    >>> bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> predict(bank, labels, torch.tensor([[3.0, 1.0], [1.0, 3.0]]), k=1, classes=2).tolist()
    [0, 1]
    """
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    best = []
    for part in queries.split(chunk):
        similarity, nearest = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), classes).to(part)
        votes.scatter_add_(1, labels[nearest], (similarity / TEMPERATURE).exp())
        best.append(votes.argmax(1))
    return torch.cat(best)


def accuracies(
    encoder: ViT,
    train: Source,
    val: Source | None,
    options: Options,
    kinds: tuple[str, ...] = ("class",),
    advance: Advance = lambda count: None,
) -> dict[str, Any]:
    """Top-1 in percent for each k, by the first kind of features as `top1`, by each other one as `top1_KIND`.

    Without a second split, every tenth training image is held out.
    """
    banks, numbers = several(encoder, train, kinds, options, advance)
    labels = labels_of(train, numbers)
    if val is None:
        held = torch.arange(len(labels)) % 10 == 9
        queries, truth = {kind: bank[held] for kind, bank in banks.items()}, labels[held]
        banks, labels = {kind: bank[~held] for kind, bank in banks.items()}, labels[~held]
    else:
        queries, numbers = several(encoder, val, kinds, options, advance)
        truth = labels_of(val, numbers)
    classes = len(train.classes or ())
    usable = [k for k in NEIGHBOURS if k <= len(labels)] or [len(labels)]
    tops = {}
    for kind, bank in banks.items():
        right = {k: predict(bank, labels, queries[kind], k, classes) == truth for k in usable}
        top = {f"k{k}": round(100 * hit.float().mean().item(), 2) for k, hit in right.items()}
        tops["top1" if kind == kinds[0] else f"top1_{kind}"] = top
    split = "a held-out tenth" if val is None else "val"
    return {**tops, "images": len(labels), "queries": len(truth), "classes": classes, "split": split}


def headline(top: dict[str, float]) -> float:
    """k = 20 where there are so many images, else the first."""
    return top.get("k20", next(iter(top.values())))


def trained_and_untrained(
    trained: ViT, untrained: ViT, recipe: Recipe, source: Source, device: torch.device
) -> dict[str, Any]:
    """The same measurement for an encoder and for the one that it began as."""
    options = Options(workers=recipe.data.workers, limit=recipe.run.knn_images)
    val = open_source(recipe.data, recipe.run.seed, "val")
    kinds = kinds_of(recipe)
    after = accuracies(trained.to(device), source, val, options, kinds)
    before = accuracies(untrained.to(device), source, val, options, kinds)
    tops = {f"untrained_{name}": top for name, top in before.items() if name.startswith("top1")}
    return {**after, **tops}


def told(result: dict[str, Any]) -> str:
    """One line: trained beside untrained, by each kind of features."""
    tops = {name.removeprefix("top1").lstrip("_"): name for name in result if name.startswith("top1")}
    pairs = {kind: (headline(result[name]), headline(result[f"untrained_{name}"])) for kind, name in tops.items()}
    told = [
        f"{f'by {kind} ' if kind else ''}{trained:.2f}% trained, {untrained:.2f}% untrained"
        for kind, (trained, untrained) in pairs.items()
    ]
    return (
        f"kNN (k=20) top-1: {'; '.join(told)} "
        f"({result['queries']} images of {result['split']} against {result['images']}, {result['classes']} classes)"
    )


def evaluate(checkpoint: Path, data: Path | None, options: Options) -> dict[str, Any]:
    """kNN of a checkpoint on a folder with train/ and val/, or on the data it was trained on."""
    subject = open_method(checkpoint)
    train, val = labelled(subject.recipe, data, "knn")
    encoder = subject.method.backbone()
    kinds = (checked(options.features, encoder),) if options.features else kinds_of(subject.recipe)
    with options.progress("images", images_of(options.limit, train, val)) as advance:
        result = accuracies(encoder.to(pick_device(options.device)), train, val, options, kinds, advance)
    return {"protocol": "knn", "checkpoint": str(checkpoint), "step": subject.step, "features": kinds[0], **result}
