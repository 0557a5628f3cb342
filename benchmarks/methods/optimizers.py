"""python -m benchmarks.methods.optimizers [--rounds N] [--threads N] [--record]: AdamW and the teacher's average.

The weights of ViT-S/16 with MoCo v3's heads, 43 M numbers in 157 tensors, and a teacher of all of them. Rounds
alternate between providers. `clipped` ones also multiply gradients by a factor: ours in the same pass, the others' as
PyTorch's clipping does it. --record appends to benchmarks/records/optimizers.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from vitkiln.engine import measure
from vitkiln.kernels import adamw_ema_

RECORD = Path(__file__).parents[1] / "records" / "optimizers.jsonl"
WIDTH, DEPTH = 384, 12
BLOCK = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
VECTORS = [(3 * WIDTH,), (WIDTH,), (4 * WIDTH,), *[(WIDTH,)] * 5]
PROJECTOR = [(4096, WIDTH), (4096, 4096), (256, 4096), *[(4096,)] * 4]
PREDICTOR = [(4096, 256), (256, 4096), *[(4096,)] * 2]
SHAPES = [*(BLOCK + VECTORS) * DEPTH, (WIDTH, 768), (197, WIDTH), *PROJECTOR, *PREDICTOR]
MOMENTUM, CLIP = 0.996, 0.7


class State:
    """Weights, gradients, moments, teacher."""

    def __init__(self) -> None:
        self.weights, self.grads, self.teacher = (self.random() for _ in range(3))
        self.first, self.second = ([torch.zeros_like(w) for w in self.weights] for _ in range(2))

    @staticmethod
    def random() -> list[Tensor]:
        """As large as the model."""
        return [torch.randn(shape) for shape in SHAPES]

    def bytes_moved(self) -> int:
        """By one pass: gradients are read; weights, moments and teacher read and written."""
        return 36 * sum(weight.numel() for weight in self.weights)


def torchs(average: str, clipped: bool) -> Callable[[], None]:
    """Fused AdamW, then the average by foreach operators, in one step of lerp or in the usual two."""
    state = State()
    parameters = [weight.requires_grad_() for weight in state.weights]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
    for parameter, grad in zip(parameters, state.grads, strict=True):
        parameter.grad = grad

    @torch.no_grad()
    def step() -> None:
        if clipped:
            torch._foreach_mul_(state.grads, CLIP)
        optimizer.step()
        if average == "lerp":
            torch._foreach_lerp_(state.teacher, parameters, 1 - MOMENTUM)
        else:
            torch._foreach_mul_(state.teacher, MOMENTUM)
            torch._foreach_add_(state.teacher, parameters, alpha=1 - MOMENTUM)

    return step


def ours() -> Callable[[], None]:
    """One pass; a factor of the gradient costs nothing, so it is always there."""
    state = State()
    hyper = torch.tensor([[1e-3, 0.1, 0.1, 0.001, 1e-8, 0.5, 0.1, CLIP, 1 - MOMENTUM, 0.0]])
    return lambda: adamw_ema_(state.weights, state.grads, state.first, state.second, hyper, (), state.teacher)


PROVIDERS = {
    "adamw_ema_": ours,
    "torch fused AdamW, mul and add": lambda: torchs("two", False),
    "torch fused AdamW, lerp": lambda: torchs("lerp", False),
    "clipped torch fused AdamW, mul and add": lambda: torchs("two", True),
    "clipped torch fused AdamW, lerp": lambda: torchs("lerp", True),
}


def seconds(rounds: int) -> dict[str, float]:
    """Medians of rounds in which every provider has its turn."""
    steps = {name: make() for name, make in PROVIDERS.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if index:  # the first is not counted
                taken[name].append(time.perf_counter() - began)
    return {name: median(times) for name, times in taken.items()}


def main() -> None:
    """Measure and print, and append a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    found = seconds(chosen.rounds)
    mine, moved = found["adamw_ema_"], State().bytes_moved()
    print(f"{sum(torch.Size(s).numel() for s in SHAPES) / 1e6:.1f} M numbers in {len(SHAPES)} tensors")
    for name, time_taken in found.items():
        print(f"{name:40} {time_taken * 1e3:8.1f} ms {time_taken / mine:6.2f}x")
    print(f"adamw_ema_ moves {moved / mine / 1e9:.1f} GB/s")
    if chosen.record:
        rows = [{"by": name, "ms": round(t * 1e3, 1), "to ours": round(t / mine, 3)} for name, t in found.items()]
        about = {"suite": "methods", "name": "AdamW and the teacher's average, 43 M weights", "threads": chosen.threads}
        record = {**about, "rounds": chosen.rounds, "rows": rows}
        with RECORD.open("a") as file:
            file.write(json.dumps({**record, "environment": measure.environment(torch.device("cpu"))}) + "\n")


if __name__ == "__main__":
    main()
