"""What a step is made of: numbers filled in by the host, and work for the device, which a CUDA graph may repeat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import optim
from .vocabulary import Batch, Losses, Moment

if TYPE_CHECKING:
    from .train import Trainer


def dial(trainer: Trainer) -> Moment:
    """Fill what changes with time into tensors that `update` reads; returns the moment that follows the step."""
    pace, settings = trainer.pace, trainer.recipe.optim
    coming = replace(pace, step=pace.step + 1).moment
    optim.set_rate(trainer.optimizer, pace.rate(settings, trainer.lr))
    optim.set_decay(trainer.optimizer, settings, pace.position, pace.planned)
    trainer.method.before_step(pace.moment)
    trainer.pull.fill_(trainer.method.pull(coming))
    return coming


def update(trainer: Trainer, batches: list[Batch]) -> Losses:
    """Forward, backward, optimiser and teachers, without a word from the host: no number that changes, no waiting."""
    seen = []
    for index, batch in enumerate(batches):
        with trainer.unsynchronised(index + 1 < len(batches)):
            with trainer.precision():
                losses = trainer.model(batch)
            (losses.total / len(batches)).backward()
        seen.append(losses)
    trainer.method.after_backward()
    norm, skipped = optim.step(trainer.optimizer, trainer.recipe.optim, trainer.teachers, trainer.pull)
    trainer.skipped += skipped
    return average(seen, norm)


def average(seen: list[Losses], norm: Tensor) -> Losses:
    """The mean of each term and metric over micro-batches, and the norm of their gradient."""

    def mean(part: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([values[name].detach() for values in part]).mean() for name in part[0]}

    metrics = {**mean([losses.metrics for losses in seen]), "gradient_norm": norm}
    return Losses(mean([losses.terms for losses in seen]), metrics)
