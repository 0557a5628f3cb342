"""How long a call takes: CUDA events around repetitions whose inputs have left the cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import Any

import torch

AHEAD = 0.05  # seconds of launches that are sent while the device sleeps
CYCLES = 2e9  # of the device a second, at least


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the device (of the clock on a CPU), and of the host to launch one call."""

    median: float
    p20: float
    p80: float
    n: int
    warmup: int
    host: float


def timed(
    call: Callable[[int], Any],
    device: torch.device,
    *,
    seconds: float = 0.3,
    fewest: int = 20,
    warmup: int = 10,
    enqueued: bool = True,
) -> Timing:
    """Time call(0), call(1), ...: at least `fewest` of them, and as many as `seconds` hold, up to 200.

    With `enqueued`, the device sleeps while the host launches, so that no gap between launches is counted; without,
    the gaps of a training loop are.
    """
    for index in range(warmup):
        call(index)
    total, host = estimate(call, device)
    n = max(fewest, min(200, int(seconds / max(total, 1e-6))))
    if device.type == "cpu":
        spent = [clocked(call, index) for index in range(n)]
    else:
        size = max(1, min(n, int(AHEAD / max(host, 1e-6)))) if enqueued else n
        starts = range(0, n, size)
        spent = [t for start in starts for t in between(call, range(start, min(n, start + size)), host * enqueued)]
    low, *_, high = quantiles(spent, n=5, method="inclusive")
    return Timing(median(spent), low, high, n, warmup, host * 1e3)


def estimate(call: Callable[[int], Any], device: torch.device, count: int = 3) -> tuple[float, float]:
    """Seconds a call, and seconds until the host is free again."""
    wait(device)
    began = time.perf_counter()
    for index in range(count):
        call(index)
    launched = time.perf_counter()
    wait(device)
    return (time.perf_counter() - began) / count, (launched - began) / count


def between(call: Callable[[int], Any], indices: range, host: float) -> list[float]:
    """Milliseconds between events on either side of each call."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(indices) + 1)]
    if host:
        torch.cuda._sleep(int(1.5 * host * len(indices) * CYCLES))
    events[0].record()
    for index, event in zip(indices, events[1:], strict=True):
        call(index)
        event.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(second) for first, second in pairwise(events)]


def clocked(call: Callable[[int], Any], index: int) -> float:
    """Milliseconds by the clock."""
    began = time.perf_counter()
    call(index)
    return (time.perf_counter() - began) * 1e3


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
