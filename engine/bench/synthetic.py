"""Batches that nobody had to read: random pixels, as zeros would be computed faster than any picture."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..train import Trainer
from ..vocabulary import Batch

TURNS = 3  # batches that are taken in turn, so that none lies in a cache when it comes again


def synthetic(trainer: Trainer, images: int, number: int = 0) -> Batch:
    """Uint8 views as the method wants them, ids and labels, each class at least twice in a row."""
    device = trainer.device
    draw = torch.Generator(device).manual_seed(number)
    sizes = [(images, view.size, view.size, 3) for view in trainer.method.views()]
    views = tuple(torch.randint(0, 256, size, dtype=torch.uint8, device=device, generator=draw) for size in sizes)
    ids = torch.arange(images, device=device) + number * images
    seed = torch.tensor([trainer.recipe.run.seed, number], device=device)
    classes = trainer.source.classes
    return Batch(views, ids, seed, None if classes is None else ids // 2 % len(classes))


def steps(trainer: Trainer, images: int | None = None) -> Iterator[list[Batch]]:
    """The micro-batches of one step after another, without end; of so many images, else as many as the recipe says."""
    each = trainer.order.part if images is None else images
    made = [synthetic(trainer, each, number) for number in range(TURNS)]
    turn = 0
    while True:
        parts = range(turn, turn + trainer.recipe.run.accumulate)
        yield [made[number % TURNS] for number in parts]
        turn = parts.stop
