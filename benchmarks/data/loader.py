"""python -m benchmarks.data.loader DIR: CPU-ms an image of each pipeline, by turns, and each against all by Pillow.

With --wall DIR: images a second of the loader's hands in two processes each, by turns.
"""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from vitkiln.engine.data import dali, torchvision_decode
from vitkiln.engine.data.crops import Task
from vitkiln.engine.data.hands import Hand, hand

from .pipelines import CPU, PIPELINES, VIEWS, opened

ROUNDS = 5
WORKERS = 2
TIMED = 1536  # images of a round by the clock
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
    slow = median(costs["all by Pillow"])
    width = max(map(len, costs))
    for name, cost in costs.items():
        told = f"{median(cost):6.2f} CPU-ms/image ({min(cost):.2f} to {max(cost):.2f}, {len(ids)} images)"
        print(f"{name:{width}} {told} {slow / median(cost):5.2f}x")


def by_the_clock(folder: Path) -> None:
    """Measure the hands themselves, workers and all, and print."""
    source = opened(folder)
    names = [name for name in ("pillow", "dali", "torchvision") if able(name)]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            rates[name].append(rate(hand(name, source, VIEWS, 0), len(source)))
    for name, found in rates.items():
        print(f"{name:12} {median(found):7.1f} images/s ({min(found):.1f} to {max(found):.1f}), {WORKERS} workers")


def able(name: str) -> bool:
    """Whether a hand can be used here."""
    trouble = {"dali": lambda: dali.trouble(CPU), "torchvision": torchvision_decode.trouble}
    return name not in trouble or trouble[name]() is None


def rate(carrier: Hand, count: int) -> float:
    """Images a second after a first TIMED // 2, while which processes start."""
    ids = np.arange(TIMED + TIMED // 2) % count
    tasks = [Task(0, ids[start : start + carrier.at_once]) for start in range(0, len(ids), carrier.at_once)]
    stream = carrier.carry(iter(tasks), WORKERS, CPU)
    done, started = 0, 0.0
    for number, task in enumerate(tasks):
        next(stream)
        if number == len(tasks) // 3:
            started = time.perf_counter()
        elif started:
            done += len(task.ids)
    seconds = time.perf_counter() - started
    stream.close()
    return done / seconds


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--wall":
        by_the_clock(Path(sys.argv[2]))
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        sys.exit(__doc__)
