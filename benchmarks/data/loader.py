"""python -m benchmarks.data.loader DIR: CPU-ms an image of either pipeline, alternating, and their ratio."""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from .pipelines import PIPELINES, opened

ROUNDS = 5
LARGEST = 500  # images of a round


def main(folder: Path) -> None:
    """Measure and print."""
    source = opened(folder)
    ids = np.arange(min(len(source), LARGEST))
    works = {name: make(source) for name, make in PIPELINES.items()}
    for work in works.values():
        work(0, ids[:32])
    costs: dict[str, list[float]] = {name: [] for name in works}
    for epoch in range(ROUNDS):
        for name, work in works.items():
            started = time.process_time()
            work(epoch, ids)
            costs[name].append((time.process_time() - started) / len(ids) * 1e3)
    for name, cost in costs.items():
        print(f"{name:15} {median(cost):6.2f} CPU-ms/image ({min(cost):.2f} to {max(cost):.2f}, {len(ids)} images)")
    ours, theirs = (median(cost) for cost in costs.values())
    print(f"{'ratio':15} {theirs / ours:6.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
