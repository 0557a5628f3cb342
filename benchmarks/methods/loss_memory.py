"""Time and memory of losses over many logits, features to gradients: the operator beside the plain formula.

python -m benchmarks.methods.loss_memory [--rounds 5] [--record] [--only TEXT]

One thread, and the processor's time, which other work on the machine does not stretch as it does that of the clock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.methods.step import CPU, keep
from vitkiln.engine import measure
from vitkiln.kernels import info_nce, nt_xent, prototype_cross_entropy, relation_loss, sup_con, use

RECORDS = Path(__file__).parents[1] / "records" / "loss_memory.jsonl"
Step = Callable[[], list[Tensor]]
IMPLEMENTATIONS = {"operator": "torch", "plain": "reference"}


def unit(*shape: int) -> Tensor:
    """Random features of length 1, made without a copy: a peak before the step would hide some of the step's own."""
    features = torch.randn(*shape)
    return features.div_(torch.linalg.vector_norm(features, dim=-1, keepdim=True))


def gradients(loss: Callable[[], Tensor], *leaves: Tensor) -> Step:
    """A step: the loss and its gradients."""

    def step() -> list[Tensor]:
        found = loss()
        return [found.detach(), *torch.autograd.grad(found, leaves)]

    return step


def dino(images: int, prototypes: int, crops: int = 10) -> Step:
    """2 large crops of each image, and the others small."""
    student, teacher, weight = unit(crops, images, 256), unit(2, images, 256), unit(prototypes, 256)
    center, leaves = torch.zeros(prototypes), (student.requires_grad_(), weight.requires_grad_())
    return gradients(lambda: prototype_cross_entropy(student, teacher, weight, center, 0.1, 0.04), *leaves)


def moco(rows: int) -> Step:
    """Keys of a teacher, which need no gradient."""
    query, key = unit(rows, 256).requires_grad_(), unit(rows, 256)
    return gradients(lambda: info_nce(query, key, 0.2).mean(), query)


def clip(rows: int) -> Step:
    """Keys that learn too."""
    query, key = unit(rows, 256).requires_grad_(), unit(rows, 256).requires_grad_()
    return gradients(lambda: info_nce(query, key, 0.2).mean(), query, key)


def simclr(images: int) -> Step:
    """2 views of each image."""
    first, second = unit(images, 256).requires_grad_(), unit(images, 256).requires_grad_()
    return gradients(lambda: nt_xent(first, second, 0.2), first, second)


def lacvit(images: int) -> Step:
    """2 views of each image of 100 classes."""
    features, labels = unit(images, 2, 128).requires_grad_(), torch.arange(images) % 100
    return gradients(lambda: sup_con(features, labels, 0.1, 0.07), features)


def relvit(images: int) -> Step:
    """The nine heads of ViT-S over 14 by 14 patches."""
    query, key = (unit(images, 9, 196, 42).requires_grad_() for _ in range(2))
    patch = torch.arange(196)
    return gradients(lambda: relation_loss(query, key, patch // 14, patch % 14)[0], query, key)


LOSSES: dict[str, Callable[[], Step]] = {
    "prototype_cross_entropy, 65,536 prototypes, d=256, 10 crops of 32 images": partial(dino, 32, 65_536),
    "prototype_cross_entropy, 65,536 prototypes, d=256, 8 crops of 8 images": partial(dino, 8, 65_536, 8),
    "nt_xent, N=4096, D=256": partial(simclr, 4096),
    "info_nce, N=16,384, D=256, keys of a teacher": partial(moco, 16_384),
    "info_nce, N=16,384, D=256, keys that learn": partial(clip, 16_384),
    "sup_con, 8,192 views of 4,096 images, D=128": partial(lacvit, 4096),
    "relation_loss, 64 images of 196 patches, 9 heads, d=42": partial(relvit, 64),
}


def peak(name: str, implementation: str) -> tuple[int, float]:
    """Bytes that a process of its own grows by in its first step, and the loss."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, implementation))


def _peak(name: str, implementation: str) -> tuple[int, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = LOSSES[name]()
    with use(implementation):
        for small in (dino(2, 512), moco(2), clip(2), simclr(2), lacvit(2), relvit(2)):
            small()  # the first call of all imports what is not the loss's
        before = measure.peak_memory(CPU)
        loss = step()[0].item()
    return measure.peak_memory(CPU) - before, loss


def interleaved(name: str, rounds: int) -> dict[str, list[float]]:
    """Processor seconds a step of either, in turns, after a round of warm-up."""
    step = LOSSES[name]()
    seconds: dict[str, list[float]] = {kind: [] for kind in IMPLEMENTATIONS}
    results: dict[str, list[Tensor]] = {}
    for number in range(rounds + 1):
        for kind, implementation in IMPLEMENTATIONS.items():
            began = time.process_time()
            with use(implementation):
                found = step()
            seconds[kind] += [time.process_time() - began] if number else []
            results[kind] = [] if number else found
        if not number:
            check(results.pop("operator"), results.pop("plain"))
    return seconds


def check(operator: list[Tensor], plain: list[Tensor]) -> None:
    """Values within 1e-5, gradients within 1e-4 of their norm."""
    for index, (ours, theirs) in enumerate(zip(operator, plain, strict=True)):
        apart = torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs)
        assert apart < (1e-4 if index else 1e-5), f"result {index} differs by {apart.item():.1e} of its norm"


def peaks(name: str) -> dict[str, int]:
    """Of either, after losses were found equal. A child inherits this process's own peak, so this comes before work."""
    grown, losses = {}, {}
    for kind, implementation in IMPLEMENTATIONS.items():
        grown[kind], losses[kind] = peak(name, implementation)
        assert grown[kind] > 0, "this process was larger than its child"
    assert abs(losses["operator"] - losses["plain"]) < 1e-4 * abs(losses["plain"]), losses
    return grown


def compare(name: str, grown: dict[str, int], rounds: int) -> dict[str, Any]:
    """What either takes."""
    torch.set_num_threads(1)
    seconds = interleaved(name, rounds)
    return {
        "suite": "methods",
        "name": f"{name}, features to gradients, fp32",
        "rounds": rounds,
        "peak_growth_bytes": grown,
        "memory_ratio": round(grown["operator"] / grown["plain"], 3),
        "processor_seconds": {kind: [round(q, 4) for q in quantiles(values, n=4)] for kind, values in seconds.items()},
        "speedup": round(median(seconds["plain"]) / median(seconds["operator"]), 3),
        "environment": measure.environment(CPU),
    }


def table(result: dict[str, Any]) -> Table:
    """For a terminal."""
    view = Table("by", "peak growth, MB", "processor seconds", title=result["name"])
    for kind, grown in result["peak_growth_bytes"].items():
        view.add_row(kind, f"{grown / 1e6:.0f}", f"{result['processor_seconds'][kind][1]:.3f}")
    view.add_section()
    view.add_row("", f"{result['memory_ratio']:.3f} of plain", f"{result['speedup']:.2f}x as fast")
    return view


def main() -> None:
    """Print every comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append the results to benchmarks/records")
    parser.add_argument("--only", default="", help="losses whose name contains this")
    given = parser.parse_args()
    grown = {name: peaks(name) for name in LOSSES if given.only in name}
    for name in grown:
        result = compare(name, grown[name], given.rounds)
        Console().print(table(result))
        if given.record:
            keep(RECORDS, result)


if __name__ == "__main__":
    main()
