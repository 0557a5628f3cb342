"""python -m benchmarks.data.fractals [--record]: the search, `exact` and `fast` on one core, against the goals.

On a GPU `benchmarks/gpu.sh` measures them. --record appends a line to benchmarks/records/fractals.jsonl.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from vitkiln.engine import measure
from vitkiln.kernels.fractals import (
    draw_fractals,
    fractal_support,
    native_state,
    render_fractals,
    search_fractals,
    search_state,
)

ROUNDS = 15
POINTS = 200_000
OFFICIAL_MS = 6500  # the published renderer, one core
CANDIDATES = 42_655  # of the search for 1,000 categories
RECORD = Path(__file__).parents[1] / "records" / "fractals.jsonl"


def seconds(work: Callable[[], object]) -> list[float]:
    """Of each round, after one that is not counted: the core's own time, whoever else uses the machine."""
    work()
    taken = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return taken


def category() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first that a search with seed 1 would take."""
    found = search_fractals(search_state(1), 64)
    best = int(found.lit.argmax())
    return found.maps[best : best + 1], found.probabilities[best : best + 1], torch.ones(1, 6, dtype=torch.float64)


def on_one_core() -> dict[str, float]:
    """Medians of CPU time, and the fastest of the rounds."""
    maps, probabilities, weights = category()
    seeds = torch.arange(64)
    state = search_state(2)
    bits = fractal_support(maps, probabilities, weights, 224, POINTS).bits.expand(64, -1).contiguous()
    exact = seconds(lambda: render_fractals(maps, probabilities, weights, seeds[:1], 362, POINTS))
    support = seconds(lambda: fractal_support(maps, probabilities, weights, 362, POINTS))
    fast = seconds(lambda: draw_fractals(bits, seeds, 224))
    search = seconds(lambda: search_fractals(state, 32))
    return {
        "exact_ms": median(exact) * 1e3,
        "exact_ms_fastest": min(exact) * 1e3,
        "support_ms": median(support) * 1e3,
        "support_ms_fastest": min(support) * 1e3,
        "fast_images_per_s": 64 / median(fast),
        "fast_images_per_s_fastest": 64 / min(fast),
        "search_ms_per_candidate": median(search) / 32 * 1e3,
        "search_ms_per_candidate_fastest": min(search) / 32 * 1e3,
    }


def main(record: bool) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    found = on_one_core()
    built = native_state("fractals").status
    print(f"native operators: {built}")
    print(f"exact   {found['exact_ms']:8.2f} ms a render (fastest {found['exact_ms_fastest']:.2f}; goal 6.5), "
          f"{OFFICIAL_MS / found['exact_ms']:.0f} times as fast as the official renderer")  # fmt: skip
    print(f"support {found['support_ms']:8.2f} ms (fastest {found['support_ms_fastest']:.2f})")
    print(f"fast    {found['fast_images_per_s']:8.0f} images/s at 224 px "
          f"(fastest {found['fast_images_per_s_fastest']:.0f}; goal 5000)")  # fmt: skip
    print(f"search  {found['search_ms_per_candidate']:8.2f} ms a candidate, "
          f"{found['search_ms_per_candidate'] * CANDIDATES / 1e3:.0f} s on one core for 1,000 categories")  # fmt: skip
    if record:
        about = {"suite": "data", "name": "formula-driven images on one core", "native": built}
        environment = measure.environment(torch.device("cpu"))
        with RECORD.open("a") as file:
            file.write(json.dumps({**about, **found, "environment": environment}) + "\n")


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"--record"}:
        sys.exit(__doc__)
    main("--record" in sys.argv)
