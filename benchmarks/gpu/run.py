"""Works measurements off one by one: each provider is first compared, then timed; what fails is said, and passed by."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from . import record
from .timing import Timing, timed
from .work import Place, Work, difference, forget

Say = Callable[[dict[str, Any]], None]
Sets = list[tuple[Any, ...]]
CACHES, MOST_SETS = 4, 64  # inputs rotate through four times the L2 cache
TINY_TOLERANCE = 1e-4
TINY_PATIENCE = {"seconds": 0.0, "fewest": 2, "warmup": 1}


class Dead(Exception):
    """The GPU answers no more: this process is of no use."""


class Disagrees(Exception):
    """A provider does not compute what the first one does."""


def run(suite: str, work: Work, place: Place, limits: tuple[float, float] | None, say: Say) -> None:
    """A line for every provider of a work: its time, or what went wrong."""
    expected: list[Tensor] | None = None
    sets: Sets = []
    for provider in work.providers:
        line = {"suite": suite, "name": work.name, "mode": work.mode, "provider": provider, "shape": work.shape}
        line["dtype"] = str(place.dtype).removeprefix("torch.")
        try:
            sets = sets or rotating(work, place)
            expected = compare_and_time(work, provider, sets, expected, place, line)
            line["roofline"] = record.roofline(work.moved, line["flops"], line["median"], limits)
        except Exception as error:  # whatever it is, the other providers shall be measured
            line["error"] = f"{type(error).__name__}: {(str(error).strip() or 'no words').splitlines()[0]}"[:300]
        say(line)
        release(place)
    forget()


def compare_and_time(
    work: Work, provider: str, sets: Sets, expected: list[Tensor] | None, place: Place, line: dict[str, Any]
) -> list[Tensor] | None:
    """Fill the line; returns what the providers to come are compared with."""
    before = allocated(place)
    function = work.providers[provider]()
    found = work.call(function, sets[0])
    if provider not in work.incomparable:
        if expected is None:
            expected, before = found, before + size(found)
        line["difference"] = judged(difference(found, expected), work, place)
    del found
    reset_peak(place)
    timing = timed(
        lambda index: work.call(function, sets[index % len(sets)]),
        place.device,
        enqueued=work.enqueued,
        **(TINY_PATIENCE if place.tiny else {"fewest": work.fewest}),
    )
    line.update(figures(timing, work), **state(place, before))
    if hasattr(function, "figures"):  # what only the provider knows
        line.update(function.figures(timing.median))
    return expected


def judged(apart: float, work: Work, place: Place) -> float:
    """The difference, unless it is too large to go on."""
    allowed = min(work.tolerance, TINY_TOLERANCE) if place.tiny else work.tolerance
    if not apart <= allowed:
        first = next(iter(work.providers))
        raise Disagrees(f"differs from {first} by {apart:.2g} of the norm; at most {allowed:.2g} is allowed")
    return float(f"{apart:.2g}")


def figures(timing: Timing, work: Work) -> dict[str, Any]:
    """Milliseconds, and what was done in them."""
    times = {name: round(getattr(timing, name), 5) for name in ("median", "p20", "p80")}
    counts = {"n": timing.n, "warmup": timing.warmup, "host_ms": round(timing.host, 4)}
    rate = {"images_per_second": round(1e3 * work.images / timing.median, 1)} if work.images else {}
    return {"unit": "ms", **times, **counts, **rate, "bytes": work.moved, "flops": work.flops}


def rotating(work: Work, place: Place) -> Sets:
    """As many sets of inputs as outgrow the cache: two where one alone does."""
    sets = [work.inputs()]
    cache = 0 if place.tiny else torch.cuda.get_device_properties(place.device).L2_cache_size
    wanted = min(MOST_SETS, max(2, -(-CACHES * cache // max(1, size(sets[0])))))
    return sets + [work.inputs() for _ in range(wanted - 1)]


def size(tensors: Iterable[Any]) -> int:
    """Bytes of those that are tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def allocated(place: Place) -> int:
    """Bytes on the GPU."""
    return torch.cuda.memory_allocated() if place.device.type == "cuda" else 0


def reset_peak(place: Place) -> None:
    """Count the peak from here on."""
    if place.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def state(place: Place, before: int) -> dict[str, Any]:
    """The most bytes above those that were there before, and the clock and power of a GPU that is still warm."""
    if place.device.type != "cuda":
        return {}
    return {"peak_mem_bytes": torch.cuda.max_memory_allocated() - before, **record.clock_and_power()}


def release(place: Place) -> None:
    """Give back what a provider held, code included; Dead where the device does not answer."""
    torch.compiler.reset()
    gc.collect()
    if place.device.type != "cuda":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise Dead(str(error).splitlines()[0]) from error
