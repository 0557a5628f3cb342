"""The linear probe: features computed once, and a grid of linear classifiers trained on them together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.source import Source
from ..device import pick_device
from ..errors import DataError, RecipeError
from ..recipe import Recipe
from ..schedule import cosine
from ..vit import ViT
from ..vocabulary import View
from .features import checked, gathered, rows_of
from .heads import Heads
from .images import Crop, Still, images_of, labels_of, pictures, subset
from .subject import BY_PATCHES, Advance, Options, base_of, kinds_of, labelled, open_method

FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the published rate
DECAYS = (0.0, 1e-4)
CROP = View(scale=(0.08, 1.0))
FEWEST_STEPS, SMALLEST_BATCH = 10, 64  # of an epoch, and what is not gone below for their sake
QUERIES = 4096  # rows evaluated at a time


@dataclass(frozen=True, slots=True)
class Variant:
    """How a method's authors probe."""

    rate: float  # for 256 images
    batch: int
    epochs: int
    warmup: int = 0
    by_step: bool = False  # the cosine falls at every step, else at every epoch
    lars: bool = False
    normalised: bool = False  # batch normalisation without parameters before the classifier
    still: str = "bicubic"
    crop: View = CROP


VARIANTS = {
    "mocov3": Variant(3.0, 1024, 90, still="bilinear"),
    "dino": Variant(0.001, 256, 100),
    "mae": Variant(
        0.1, 16384, 90, warmup=10, by_step=True, lars=True, normalised=True,
        crop=replace(CROP, retry=False, interpolation="bicubic"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """Features of some images: copies [V, N, D], of which the first is the image itself, and labels [N]."""

    copies: Tensor
    labels: Tensor

    def part(self, which: Tensor) -> Rows:
        """Of some images, all copies."""
        return Rows(self.copies[:, which], self.labels[which])

    def to(self, device: torch.device) -> Rows:
        """On the device if they take less than half of its free memory."""
        if device.type == "cuda" and self.copies.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return Rows(self.copies.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class Probe:
    """One training of the whole grid."""

    variant: Variant
    batch: int
    epochs: int
    classes: int
    seed: int
    device: torch.device

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Factor of the published rate and weight decay of each head."""
        return [(factor, decay) for factor in FACTORS for decay in DECAYS]

    @property
    def rate(self) -> float:
        """The published rate for this batch."""
        return self.variant.rate * self.batch / 256

    def heads(self, width: int) -> Heads:
        """Normal of deviation 0.01, the bias 0."""
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randn(width, self.classes, generator=generator).mul_(0.01).to(self.device)
        factors, decays = torch.tensor(self.grid, dtype=torch.float64).unbind(1)
        return Heads(self.rate * factors, decays, start, lars=self.variant.lars)

    def share(self, epoch: int, step: int, steps: int) -> float:
        """Of the rate, at a step of an epoch of so many."""
        at = epoch + step / steps if self.variant.by_step else epoch
        return cosine(at, self.epochs, min(self.variant.warmup, self.epochs // 2), 1.0)


def train(rows: Rows, tests: list[Rows], probe: Probe, advance: Advance) -> list[Tensor]:
    """Train every head on `rows`; top-1 in percent after each epoch on each of `tests`, [epochs, R].

    In every epoch each image comes once, as one of its copies, drawn.
    """
    rows, tests = rows.to(probe.device), [test.to(probe.device) for test in tests]
    heads, norm = probe.heads(rows.copies.shape[-1]), normaliser(rows.copies.shape[-1], probe)
    generator = torch.Generator().manual_seed(probe.seed)
    figures: list[list[Tensor]] = [[] for _ in tests]
    for epoch in range(probe.epochs):
        norm.train()
        batches = list(epoch_of(rows, probe.batch, generator))
        for step, (which, copy) in enumerate(batches):
            x = norm(rows.copies[copy, which].to(probe.device).float())
            heads.step(x, rows.labels[which].to(probe.device), probe.share(epoch, step, len(batches)))
        norm.eval()
        for found, test in zip(figures, tests, strict=True):
            found.append(accuracy(heads, norm, test, probe.device))
        advance(1)
    return [torch.stack(found) for found in figures]


def normaliser(width: int, probe: Probe) -> nn.Module:
    """MAE's, which has no parameters and so is all heads' at once; or none."""
    if not probe.variant.normalised:
        return nn.Identity()
    return nn.BatchNorm1d(width, eps=1e-6, affine=False).to(probe.device)


def epoch_of(rows: Rows, batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their copies, in batches of almost equal size: none is left out, none stands alone."""
    copies, count = rows.copies.shape[:2]
    order, copy = torch.randperm(count, generator=generator), torch.randint(copies, (count,), generator=generator)
    place = rows.copies.device
    for which in order.tensor_split(math.ceil(count / batch)):
        yield which.to(place), copy[which].to(place)


def accuracy(heads: Heads, norm: nn.Module, test: Rows, device: torch.device) -> Tensor:
    """Top-1 of each head in percent, on the images themselves: [R], on the CPU."""
    right = torch.zeros(len(heads.weight), dtype=torch.int64, device=device)
    for x, labels in zip(test.copies[0].split(QUERIES), test.labels.split(QUERIES), strict=True):
        right += heads.hits(norm(x.to(device).float()), labels.to(device))
    return 100 * right.double().cpu() / len(test.labels)


def probed(fit: Rows, test: Rows, probe: Probe, advance: Advance) -> dict[str, Any]:
    """Choose a rate on a held-out tenth of the training images, then train on all of them and look at the others."""
    held = torch.arange(len(fit.labels)) % 10 == 9
    if not held.any():
        raise DataError(f"{len(fit.labels)} training images; --protocol linear needs ten to hold one out")
    (choice,) = train(fit.part(~held), [fit.part(held)], probe, advance)
    (figures,) = train(fit, [test], probe, advance)
    rates = list(told(probe, choice, figures))
    chosen = max(rates, key=lambda row: (row["held_last"], -abs(math.log(row["factor"])), -row["weight_decay"]))
    published = next(row for row in rates if (row["factor"], row["weight_decay"]) == (1.0, 0.0))
    return {
        "top1": chosen["last"],
        "chosen_on_held_out": chosen,
        "published_rate": published,
        "best_on_test": max(rates, key=lambda row: row["best"]),
        "held_out": int(held.sum()),
        "rates": rates,
    }


def told(probe: Probe, choice: Tensor, figures: Tensor) -> Iterator[dict[str, Any]]:
    """A row for each head."""
    for head, (factor, decay) in enumerate(probe.grid):
        seen = figures[:, head]
        yield {
            "factor": factor,
            "rate": probe.rate * factor,
            "weight_decay": decay,
            "held_best": round(choice[:, head].max().item(), 2),
            "held_last": round(choice[-1, head].item(), 2),
            "best": round(seen.max().item(), 2),
            "best_epoch": int(seen.argmax()) + 1,
            "last": round(seen[-1].item(), 2),
        }


def read(encoder: ViT, source: Source, kind: str, how: list[Still | Crop], options: Options, advance: Advance) -> Rows:
    """Features of the images, and of as many crops of each as are asked for. What cannot be read is left out of all."""
    numbers = subset(len(source), options.limit, 0)
    copies: list[Tensor] = []
    for cut in how:
        images = pictures(source, cut, numbers, batch_size=options.batch_size, workers=options.workers)
        found, which = gathered(rows_of(encoder, images, (kind,), advance), options.half)
        if copies and len(which) < len(numbers):
            raise DataError(f"{len(numbers) - len(which)} images could be read at first, and now they cannot")
        numbers = which.numpy().astype(np.int64)
        copies.append(found[kind])
    return Rows(torch.stack(copies), labels_of(source, torch.from_numpy(numbers)))


def split(encoder: ViT, sources: tuple[Source, Source | None], kind: str, variant: Variant, options: Options
) -> tuple[Rows, Rows]:  # fmt: skip
    """Features to learn from and to be tested on; without a second split every tenth image is tested on."""
    train, val = sources
    size = encoder.settings.image_size
    still = Still(size, variant.still)
    crops = [Crop(replace(variant.crop, size=size), options.seed, copy) for copy in range(options.views)]
    total = images_of(options.limit, train) * (1 + options.views) + images_of(options.limit, val)
    with options.progress("images", total) as advance:
        fit = read(encoder, train, kind, [still, *crops], options, advance)
        if val is not None:
            return fit, read(encoder, val, kind, [still], options, advance)
    tested = torch.arange(len(fit.labels)) % 10 == 4
    return fit.part(~tested), fit.part(tested)


def variant_of(recipe: Recipe, named: str | None) -> str:
    """The one asked for, else that of the method's family."""
    if named is None:
        base = base_of(recipe)
        return "mae" if base in BY_PATCHES else "dino" if base == "dino" else "mocov3"
    if named not in VARIANTS:
        near = get_close_matches(named, VARIANTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"must be one of {', '.join(VARIANTS)}"
        raise RecipeError(f"--variant {named}: unknown; {hint}")
    return named


def kind_of(name: str, encoder: ViT) -> str:
    """Class tokens; DINO adds the last blocks' to narrow ones and the patches' mean to wide ones."""
    if name != "dino" or not encoder.prefix:
        return "class"
    return f"last-{min(4, len(encoder.blocks))}" if encoder.width <= 384 else "class+mean"


def batch_of(variant: Variant, images: int) -> int:
    """The published one, or less where that would leave fewer than ten steps in an epoch."""
    return min(variant.batch, max(SMALLEST_BATCH, math.ceil(images / FEWEST_STEPS)))


def evaluate(checkpoint: Path, data: Path | None, options: Options) -> dict[str, Any]:
    """The linear probe of a checkpoint on a folder with train/ and val/, or on the data it was trained on."""
    subject = open_method(checkpoint)
    sources = labelled(subject.recipe, data, "linear")
    name = variant_of(subject.recipe, options.variant)
    variant, device = VARIANTS[name], pick_device(options.device)
    encoder = subject.method.backbone().to(device)
    own = kinds_of(subject.recipe)
    usual = "mean_norm" if own == ("mean_norm",) else kind_of(name, encoder)
    kind = checked(options.features or usual, encoder)
    fit, test = split(encoder, sources, kind, variant, options)
    batch, epochs = batch_of(variant, len(fit.labels)), options.epochs or variant.epochs
    probe = Probe(variant, batch, epochs, len(sources[0].classes or ()), options.seed, device)
    with options.progress("epochs", 2 * epochs) as advance, torch.inference_mode():
        found = probed(fit, test, probe, advance)
    return {
        "protocol": "linear",
        "variant": name,
        "checkpoint": str(checkpoint),
        "step": subject.step,
        "features": kind,
        "views": options.views,
        "epochs": epochs,
        "batch": batch,
        **found,
        "images": len(fit.labels),
        "queries": len(test.labels),
        "classes": probe.classes,
        "split": "a held-out tenth" if sources[1] is None else "val",
    }
