"""What GMML's corruption and loss cost beside the rest of a step: ViT-S/16 at 224 pixels, two views.

python -m benchmarks.methods.gmml [--batch 8] [--rounds 5] [--threads 2] [--record]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.methods.step import CPU, keep, options
from vitkiln.engine import measure, optim
from vitkiln.engine.methods.gmml import GMML, LARGE
from vitkiln.engine.settings import Encoder, Optim, gmml
from vitkiln.engine.vocabulary import Batch

RECORDS = Path(__file__).parents[1] / "records" / "gmml_step.jsonl"
ENCODER = Encoder(name="vit_small", position="learned", init="truncated_normal", drop_path=0.1)
ALIGNMENTS = (16, 1)
GOAL = 0.02  # of a step


class Step:
    """GMML with its optimiser and one batch of random images; calling it trains one step in fp32."""

    def __init__(self, align: int, batch_size: int):
        torch.manual_seed(0)
        self.method = GMML(gmml.Settings(align=align), ENCODER)
        self.optimizer = optim.build(Optim(), self.method, 1e-4, CPU)
        size = ENCODER.image_size
        views = tuple(torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8) for _ in range(LARGE))
        self.batch = Batch(views, torch.arange(batch_size), torch.tensor([0, 1]))
        (self.crops,) = self.method.crops(self.batch)
        shape = len(self.crops.images), ENCODER.patches, 3 * ENCODER.patch_size**2
        self.said = torch.randn(shape, requires_grad=True)
        _, self.mask = self.method.corrupt(self.crops, self.batch)

    def __call__(self) -> None:
        self.method(self.batch).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def corruption(self) -> None:
        """Masks, and what the encoder sees in place of the images."""
        self.method.corrupt(self.crops, self.batch)

    def loss(self) -> None:
        """And its gradient."""
        self.method.error(self.said, self.crops.images, self.mask).backward()
        self.said.grad = None

    def parts(self) -> dict[str, Callable[[], None]]:
        """What is timed, by name."""
        return {"corruption": self.corruption, "loss": self.loss, "step": self}


def seconds(part: Callable[[], None]) -> float:
    """That one call takes."""
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def interleaved(align: int, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part and of the whole step, in turns, after a round of warm-up."""
    parts = Step(align, batch_size).parts()
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            once = seconds(part)
            taken[name] += [once] if number else []
    return taken


def compare(batch_size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Quartiles of every part for both alignments, and the share that is neither encoder nor head nor optimiser."""
    torch.set_num_threads(threads)
    found = {str(align): interleaved(align, batch_size, rounds) for align in ALIGNMENTS}
    middle = {align: {name: median(values) for name, values in parts.items()} for align, parts in found.items()}
    return {
        "suite": "methods",
        "name": "GMML's corruption and loss in a step of ViT-S/16, 224 px, two views, fp32",
        "batch": batch_size,
        "rounds": rounds,
        "seconds": {
            align: {name: [round(q, 5) for q in quantiles(values, n=4)] for name, values in parts.items()}
            for align, parts in found.items()
        },
        "corruption_ms_a_view": {
            align: round(1000 * parts["corruption"] / (LARGE * batch_size), 3) for align, parts in middle.items()
        },
        "share": {
            align: round((parts["corruption"] + parts["loss"]) / parts["step"], 5) for align, parts in middle.items()
        },
        "goal": GOAL,
        "environment": measure.environment(CPU),
    }


def table(result: dict[str, Any]) -> Table:
    """For a terminal."""
    title = f"{result['name']}, batch {result['batch']}; goal {100 * GOAL:.0f} % of the step"
    view = Table("align", "corruption, ms", "a view", "loss, ms", "step, ms", "share", title=title)
    for align, parts in result["seconds"].items():
        corruption, loss, step = (f"{1000 * parts[name][1]:.2f}" for name in ("corruption", "loss", "step"))
        a_view, share = f"{result['corruption_ms_a_view'][align]:.3f}", f"{100 * result['share'][align]:.2f} %"
        view.add_row(align, corruption, a_view, loss, step, share)
    return view


def main() -> None:
    """Print what was measured."""
    given = options(__doc__)
    result = compare(given.batch, given.rounds, given.threads)
    Console().print(table(result))
    if given.record:
        keep(RECORDS, result)


if __name__ == "__main__":
    main()
