"""What exact rewriting saves in a DILEMMA step: ViT-S/16, 224 pixels, fp32, with and without, from one run.

python -m benchmarks.methods.algebra [--batch 8] [--rounds 5] [--threads 2] [--record]
"""

from __future__ import annotations

from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.methods.step import CPU, Step, keep, options
from vitkiln.engine import distributed, measure
from vitkiln.engine.methods.dilemma import Dilemma
from vitkiln.engine.methods.mocov3 import MoCoV3
from vitkiln.engine.vocabulary import Batch, Losses, Plan

RECORDS = Path(__file__).parents[1] / "records" / "dilemma_algebra.jsonl"


class WholeLastBlock(MoCoV3):
    """The teacher computes every token of its last block, of which the class token is read."""

    def keys(self, batch: Batch) -> tuple[Tensor, ...]:
        encoder, projector = self.teacher
        with torch.no_grad():
            seen = encoder(torch.cat(batch.views))[:, 0]
            keys = torch.stack([projector(view) for view in seen.chunk(2)], 1)
        return distributed.gather(keys).unbind(1)


class ViewByView(MoCoV3):
    """The teacher sees one view after the other."""

    def keys(self, batch: Batch) -> tuple[Tensor, ...]:
        encoder, projector = self.teacher
        with torch.no_grad():
            return tuple(projector(encoder.class_token(view)) for view in batch.views)


class StudentViewByView(Dilemma):
    """And so does the student."""

    def forward(self, batch: Batch) -> Losses:
        plan, encoder = self.plan(batch), self.base.encoder
        parts = [Plan(*part) for part in zip(plan.keep.chunk(2), plan.place.chunk(2), strict=True)]
        tokens = torch.cat([encoder(view, part) for view, part in zip(batch.views, parts, strict=True)])
        losses = self.base.losses(batch, tokens, plan)
        self.detect(losses, self.detector, tokens[:, encoder.prefix :], plan)
        return losses


def variants(batch_size: int) -> dict[str, Step]:
    """The step as it is, and with one rewriting undone each; all compute the same loss."""
    steps = {name: Step("dilemma", batch_size) for name in ("as it is", "whole last block", "view by view")}
    steps["whole last block"].method.base.__class__ = WholeLastBlock
    steps["view by view"].method.base.__class__ = ViewByView
    steps["view by view"].method.__class__ = StudentViewByView
    return steps


def compare(batch_size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds a step, in turns, after losses were found equal."""
    torch.set_num_threads(threads)
    steps = variants(batch_size)
    with torch.no_grad():
        losses = [step.method(step.batch).total.item() for step in steps.values()]
    assert max(losses) - min(losses) < 1e-4, losses
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            taken = step()
            seconds[name] += [taken] if number else []
    quarters = {name: [round(q, 4) for q in quantiles(values, n=4)] for name, values in seconds.items()}
    return {
        "suite": "methods",
        "name": "algebra of a DILEMMA step, ViT-S/16, 224 px, fp32, keep 0.25",
        "batch": batch_size,
        "rounds": rounds,
        "seconds": quarters,
        "speedup": {name: round(middle / quarters["as it is"][1], 3) for name, (_, middle, _) in quarters.items()},
        "environment": measure.environment(CPU),
    }


def main() -> None:
    """Print the comparison."""
    given = options(__doc__)
    result = compare(given.batch, given.rounds, given.threads)
    view = Table("step", "s (median)", "gain", title=f"{result['name']}, batch {result['batch']}")
    for name, (_, middle, _) in result["seconds"].items():
        view.add_row(name, f"{middle:.3f}", f"{result['speedup'][name]:.3f}x")
    Console().print(view)
    if given.record:
        keep(RECORDS, result)


if __name__ == "__main__":
    main()
