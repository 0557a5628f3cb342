"""Where the time of a data path goes, and which stage a run that waits for data should look at first."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cores import cores
from .crops import Spent

TOO_LONG = 0.05  # share of a step


@dataclass
class Stages:
    """Seconds of each stage: those of workers side by side, those after them one after another."""

    files: bool  # images are decoded and not drawn
    workers: int
    loader: str = "pillow"
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def worked(self, spent: Spent, images: int) -> None:
        """What a worker says of a task."""
        self.images += images
        for name, seconds in zip(("read", "decode" if self.files else "draw", "cut"), spent, strict=True):
            self.add(name, seconds)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def each(self) -> dict[str, float]:
        """Milliseconds of wall time that a stage takes for an image: the workers' are shared among them."""
        share = {name: max(1, self.workers) for name in ("read", "decode", "draw", "cut")}
        return {name: 1e3 * s / max(1, self.images) / share.get(name, 1) for name, s in self.seconds.items()}

    def limiting(self) -> str:
        """The largest stage of the slower side, the workers' or that behind them."""
        each = self.each()
        behind = {name: each[name] for name in ("copy", "colour") if name in each}
        before = {name: ms for name, ms in each.items() if name not in behind}
        slower = before if self.workers == 0 or sum(before.values()) > sum(behind.values()) else behind
        return max(slower or each, key=each.__getitem__)

    def advice(self, waiting: float) -> str:
        """One line for a run that waits `waiting` of its time."""
        name = self.limiting()
        told = ", ".join(f"{stage} {1e3 * s / max(1, self.images):.2f}" for stage, s in self.seconds.items())
        return (
            f"steps wait {waiting:.1%} of their time for data; the limit is {name} ({told} ms an image, "
            f"{self.workers} workers): {self.knob(name)}"
        )

    def knob(self, name: str) -> str:
        """What to turn."""
        here = cores()
        more = (
            f"data.workers={min(here, max(1, 2 * self.workers))}"
            if self.workers < here
            else f"more cores than the {here} there are"
        )
        smaller = "files cut down before (engine shards build --short-side 256)"
        return {
            "read": f"a faster disk, or shards (engine shards build), or {more}",
            "decode": f"{more}, {smaller}" + (", or data.loader=dali on a GPU" if self.loader != "dali" else ""),
            "draw": f"{more}, or a smaller data.fractal_size",
            "cut": f"{more}, or {smaller}",
            "copy": "fewer or smaller views, or a larger run.accumulate",
            "colour": "native operators (engine doctor tells whether csrc is built), or fewer views",
        }[name]
