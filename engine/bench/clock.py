"""Time on the device: points in its stream that nobody waits for, on a CPU the clock; and which part each span is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, quantiles
from typing import Any

import torch

Stamp = float | torch.cuda.Event
END = "end of a step"


def stamp(device: torch.device) -> Stamp:
    """Now; on a GPU when its stream comes to this point."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first: Stamp, second: Stamp) -> float:
    """Milliseconds. On a GPU both points must have been reached."""
    if isinstance(first, float) or isinstance(second, float):
        assert isinstance(first, float)
        assert isinstance(second, float)
        return 1e3 * (second - first)
    return first.elapsed_time(second)


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Spread:
    """The median of some values, and between which two lie three fifths of them."""

    median: float
    p20: float
    p80: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """At least one value.

        >>> Spread.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        Spread(median=3.5, p20=2.0, p80=5.0, n=6)
        """
        low, *_, high = quantiles(values, n=5, method="inclusive") if len(values) > 1 else [*values, *values]
        return cls(median(values), low, high, len(values))

    def rate(self, images: int) -> Spread:
        """Images a second where these are milliseconds for so many images: the slow fifth comes first again."""
        middle, slow, fast = (1e3 * images / ms for ms in (self.median, self.p80, self.p20))
        return Spread(middle, slow, fast, self.n)


class Timeline:
    """Which part each span of a step belongs to: the innermost that is open, else the one that was settled on."""

    def __init__(self, device: torch.device, otherwise: str):
        self.device, self.open = device, [otherwise]
        self.marks: list[tuple[str, Stamp]] = []

    def mark(self, name: str | None = None) -> None:
        """From here on it is this part."""
        self.marks.append((name or self.open[-1], stamp(self.device)))

    def settle(self, otherwise: str) -> None:
        """What it is where no part is open."""
        self.open[0] = otherwise
        self.mark()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.open.append(name)
        self.mark()
        try:
            yield
        finally:
            self.open.pop()
            self.mark()

    def within(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, all of whose time is this part's but for what is open inside of it."""

        def timed(*given: Any, **named: Any) -> Any:
            with self.part(name):
                return call(*given, **named)

        return timed

    def spans(self) -> Iterator[tuple[str, float]]:
        """Each span's part and milliseconds, up to now; waits for the device."""
        marks = [*self.marks, (END, stamp(self.device))]
        wait(self.device)
        for (name, began), (_, ended) in pairwise(marks):
            yield name, between(began, ended)

    def steps(self) -> list[dict[str, float]]:
        """Milliseconds of each part of each step, steps ending where END is marked."""
        found: list[dict[str, float]] = []
        spent: dict[str, float] = {}
        for name, ms in self.spans():
            if name != END:
                spent[name] = spent.get(name, 0.0) + ms
            elif spent:
                found.append(spent)
                spent = {}
        return found


def undisturbed(steps: Sequence[dict[str, float]], whole: str) -> dict[str, float]:
    """The mean of each part over the half of the steps whose `whole` is least: such means add up, and what other
    processes do to a step only delays it.

    >>> undisturbed([{"a": 1.0, "all": 3.0}, {"a": 2.0, "all": 2.0}, {"a": 9.0, "all": 10.0}, {"all": 5.0}], "all")
    {'a': 1.5, 'all': 2.5}
    """
    kept = sorted(steps, key=lambda step: step[whole])[: max(1, len(steps) // 2)]
    names = dict.fromkeys(name for step in kept for name in step)
    return {name: fmean(step.get(name, 0.0) for step in kept) for name in names}
