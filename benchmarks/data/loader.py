"""python -m benchmarks.data.loader DIR [--record]: CPU-ms an image of each way to make two views, by turns, and against
all by Pillow; then images a second of the loader's hands in two processes each, by turns."""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from vitkiln.engine import measure
from vitkiln.engine.data import dali, torchvision_decode
from vitkiln.engine.data.crops import Task
from vitkiln.engine.data.hands import Hand, hand
from vitkiln.engine.data.source import Source

from .pipelines import CPU, PIPELINES, VIEWS, opened

RECORDS = Path(__file__).parents[1] / "records" / "loader.jsonl"
ROUNDS = 5
WORKERS = 2
TIMED = 1536  # images of a round by the clock
LARGEST = 500  # images of a round


def main() -> None:
    """Measure and print, and append a record if asked."""
    parser = argparse.ArgumentParser(prog="benchmarks.data.loader", description=__doc__)
    parser.add_argument("folder", type=Path, help="of JPEGs, in folders as a run takes them")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORDS.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = opened(options.folder)
    result = {
        "suite": "data",
        "name": "two views of 224 px for MoCo v3",
        "images": len(source),
        "kilobytes an image": round(sum(map(len, map(source.read, range(len(source))))) / len(source) / 1e3, 1),
        "CPU-ms an image": costs(source),
        f"images a second, {WORKERS} workers": rates(source),
        "environment": measure.environment(CPU),
    }
    if options.record:
        with RECORDS.open("a") as file:
            file.write(json.dumps(result) + "\n")


def costs(source: Source) -> dict[str, float]:
    """Processor time of every pipeline, threads included: medians."""
    ids = np.arange(min(len(source), LARGEST))
    works = {name: make(source) for name, make in PIPELINES.items()}
    for work in works.values():
        work(0, ids[:32])
    found: dict[str, list[float]] = {name: [] for name in works}
    for epoch in range(ROUNDS):
        for name, work in works.items():
            started = time.process_time()
            work(epoch, ids)
            found[name].append((time.process_time() - started) / len(ids) * 1e3)
    slow = median(found["all by Pillow"])
    for name, cost in found.items():
        told = f"{median(cost):6.2f} CPU-ms/image ({min(cost):.2f} to {max(cost):.2f}, {len(ids)} images)"
        print(f"{name:{max(map(len, found))}} {told} {slow / median(cost):5.2f}x")
    return {name: round(median(cost), 3) for name, cost in found.items()}


def rates(source: Source) -> dict[str, float]:
    """Of the hands themselves, workers and all: medians."""
    names = [name for name in ("pillow", "dali", "torchvision") if able(name)]
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            found[name].append(rate(hand(name, source, VIEWS, 0), len(source)))
    for name, seen in found.items():
        print(f"{name:12} {median(seen):7.1f} images/s ({min(seen):.1f} to {max(seen):.1f}), {WORKERS} workers")
    return {name: round(median(seen), 1) for name, seen in found.items()}


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
    main()
