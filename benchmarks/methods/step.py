"""One training step of ViT-S/16 at 224 pixels: sparse DILEMMA beside our own dense MoCo v3, from one run.

python -m benchmarks.methods.step [--batch 8] [--rounds 5] [--threads 2] [--record]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vitkiln.engine import measure, methods, optim
from vitkiln.engine.settings import Encoder, Optim, dilemma, mocov3
from vitkiln.engine.vocabulary import Batch

CPU = torch.device("cpu")
PULL = torch.tensor(0.005)  # 1 - momentum of the teacher
RECORDS = Path(__file__).parents[1] / "records" / "dilemma_step.jsonl"
SETTINGS = {"mocov3": mocov3.Settings(), "dilemma": dilemma.Settings(keep=0.25)}
ENCODER = Encoder(name="vit_small", freeze_patch_embed=True)


class Step:
    """A method with its optimiser and one batch of random images; calling it trains one step in fp32."""

    def __init__(self, name: str, batch_size: int):
        torch.manual_seed(0)
        self.method = methods.find(name)(SETTINGS[name], ENCODER)
        self.optimizer, self.teachers = optim.build(Optim(), self.method, 1e-4, CPU), self.method.teachers()
        size = ENCODER.image_size
        views = [torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8) for _ in range(2)]
        self.batch = Batch(tuple(views), torch.arange(batch_size), torch.tensor([0, 1]))

    def __call__(self) -> float:
        began = time.perf_counter()
        self.method(self.batch).total.backward()
        optim.step(self.optimizer, Optim(), self.teachers, PULL)
        return time.perf_counter() - began


def interleaved(batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each method, in turns, after a round of warm-up."""
    steps = {name: Step(name, batch_size) for name in SETTINGS}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for number in range(rounds + 1):
        for name, step in steps.items():
            taken = step()
            seconds[name] += [taken] if number else []
    return seconds


def peak(name: str, batch_size: int, threads: int) -> int:
    """Peak resident bytes of a process that trains this method alone for two steps."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, batch_size, threads))


def _peak(name: str, batch_size: int, threads: int) -> int:
    torch.set_num_threads(threads)
    step = Step(name, batch_size)
    for _ in range(2):
        step()
    return measure.peak_memory(CPU)


def compare(batch_size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Both methods' medians, spreads and peaks, and their ratios, with the environment."""
    torch.set_num_threads(threads)
    memory = {name: peak(name, batch_size, threads) for name in SETTINGS}
    seconds = interleaved(batch_size, rounds)
    dense, sparse = median(seconds["mocov3"]), median(seconds["dilemma"])
    return {
        "suite": "methods",
        "name": "step of ViT-S/16, 224 px, fp32, keep 0.25",
        "batch": batch_size,
        "rounds": rounds,
        "seconds": {name: [round(q, 4) for q in quantiles(values, n=4)] for name, values in seconds.items()},
        "speedup": round(dense / sparse, 3),
        "peak_bytes": memory,
        "memory_ratio": round(memory["mocov3"] / memory["dilemma"], 3),
        "environment": measure.environment(CPU),
    }


def table(result: dict[str, Any]) -> Table:
    """For a terminal."""
    view = Table(
        "method", "step, s (median)", "images/s", "peak GiB", title=f"{result['name']}, batch {result['batch']}"
    )
    for name, (_, middle, _) in result["seconds"].items():
        rate, gibibytes = result["batch"] / middle, result["peak_bytes"][name] / 2**30
        view.add_row(name, f"{middle:.3f}", f"{rate:.2f}", f"{gibibytes:.2f}")
    view.add_section()
    view.add_row("dense / sparse", f"{result['speedup']:.2f}x (bound 2.33)", "", f"{result['memory_ratio']:.2f}x")
    return view


def options(description: str | None) -> argparse.Namespace:
    """What the comparisons of whole steps are asked on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the result to benchmarks/records")
    return parser.parse_args()


def keep(record: Path, result: dict[str, Any]) -> None:
    """One line more; none is ever changed."""
    with record.open("a") as file:
        file.write(json.dumps(result) + "\n")


def main() -> None:
    """Print the comparison."""
    given = options(__doc__)
    result = compare(given.batch, given.rounds, given.threads)
    Console().print(table(result))
    if given.record:
        keep(RECORDS, result)


if __name__ == "__main__":
    main()
