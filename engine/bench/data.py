"""The recipe's own loader, by itself and in front of the training step: how fast it is, and who waits for whom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

from ..data.feed import Feed
from ..data.loader import Loader
from ..data.source import BadImage, Files
from ..train import Trainer, train_step
from .clock import Spread, Timeline, wait
from .model import durations
from .passes import replaced
from .patience import Patience

BEHIND = {"together": "copy", "coloured": "colour"}  # what the loader does behind its workers, and its stage
ELSE = "anything else"
LOOKED_AT = 32  # files whose size is asked


class Found(NamedTuple):
    """Milliseconds a step, the share of it that waited for data, and milliseconds a step of each stage."""

    whole: Spread
    waiting: float
    stages: dict[str, float]
    advice: str


def data(trainer: Trainer, patience: Patience) -> Found:
    """Batches as fast as they come."""
    return fed(trainer, patience, trains=False)


def both(trainer: Trainer, patience: Patience) -> Found:
    """Training steps on them, as a run takes them."""
    return fed(trainer, patience, trains=True)


def fed(trainer: Trainer, patience: Patience, trains: bool) -> Found:
    """Either, after the first steps."""
    with closing(Feeding(trainer, trains)) as feeding:
        count = patience.warm(feeding.step, trainer.device)
        with feeding.watched() as timeline:
            began = time.perf_counter()
            whole = Spread.of(durations(trainer, feeding.step, count))
            seconds = time.perf_counter() - began
        waiting = min(1.0, feeding.feed.waited() / seconds)
        return Found(whole, waiting, feeding.stages(timeline), feeding.loader.stages.advice(waiting))


class Feeding:
    """A loader and its hand-over, from where the trainer stands."""

    def __init__(self, trainer: Trainer, trains: bool):
        self.trainer, self.trains, self.number = trainer, trains, trainer.pace.step
        self.loader: Loader = trainer.loader()
        self.feed = Feed(self.loader, trainer.device)

    def step(self) -> float:
        """One step; returns which share of a full one it is, 1 but for the last of an epoch."""
        parts = self.trainer.order.parts(self.number)
        batches = self.feed.step(parts)
        if self.trains:
            train_step(self.trainer, batches)
        self.number += 1
        return parts / self.trainer.recipe.run.accumulate

    @contextmanager
    def watched(self) -> Iterator[Timeline]:
        """What is spent from here on, by workers and behind them."""
        wait(self.trainer.device)
        timeline = Timeline(self.trainer.device, ELSE)
        self.feed.waited()
        self.loader.stages.seconds.clear()
        self.loader.stages.images = 0
        with ExitStack() as stack:
            for name, stage in BEHIND.items():
                stack.enter_context(
                    replaced(self.loader, name, lambda call, stage=stage: timeline.within(stage, call))  # type: ignore[misc]
                )
            yield timeline

    def stages(self, timeline: Timeline) -> dict[str, float]:
        """Milliseconds for the images of a step: the workers' shared among them, the others' as the device has them."""
        stages, images = self.loader.stages, self.trainer.recipe.data.batch_size
        behind = dict.fromkeys(BEHIND.values(), 0.0)
        for name, ms in timeline.spans():
            if name in behind:
                behind[name] += ms / max(1, stages.images)
        return {name: images * ms for name, ms in {**stages.each(), **behind}.items()}

    def close(self) -> None:
        self.feed.close()


def input_bytes(trainer: Trainer) -> dict[str, int | None]:
    """Of one image: the views that go to the device, and the mean of its file where there is one."""
    views = sum(3 * view.size**2 for view in trainer.method.views())
    return {"views": views, "file": file_bytes(trainer.source)}


def file_bytes(source: Any) -> int | None:
    """The mean of some files spread over all."""
    if not isinstance(source, Files):
        return None
    looked_at = range(0, len(source), max(1, len(source) // LOOKED_AT))
    sizes = []
    for index in looked_at:
        with suppress(BadImage):
            sizes.append(len(source.read(index)))
    return sum(sizes) // len(sizes) if sizes else None
