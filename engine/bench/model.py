"""The training step by itself, on batches that nobody had to read: how long it takes, and where its time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from .. import optim
from ..train import Trainer, train_step
from ..vocabulary import Batch
from .clock import END, Spread, Timeline, between, stamp, undisturbed, wait
from .passes import Call, encoders, replaced, role, watched
from .patience import FEWEST, Patience
from .synthetic import steps

EMBEDDING, HEADS, BACKWARD, OPTIMISER, REST = "patch embedding", "heads and loss", "backward", "optimiser", "rest"
WHOLE = "whole step"
PARTS = (EMBEDDING, "student", "teacher", HEADS, BACKWARD, OPTIMISER, REST)


class Found(NamedTuple):
    """Milliseconds a step: of whole steps that nobody watched; then, of the faster half of the steps between them
    that were watched, each part, and the whole as it is from outside; and of the faster half of the others."""

    steps: Spread
    parts: dict[str, float]  # in the order of PARTS
    whole: float
    unwatched: float


def model(trainer: Trainer, patience: Patience) -> Found:
    """Whole steps and watched ones in turn, so that whatever else the machine does falls on both."""
    batches, device = steps(trainer), trainer.device
    count = patience.warm(lambda: train_step(trainer, next(batches)), device)
    timeline = Timeline(device, REST)
    unwatched, watched = [], []
    for _ in range(patience.steps or max(FEWEST, count // 2)):
        unwatched.append(timed(trainer, next(batches)))
        with watching(trainer, timeline):
            watched.append(timed(trainer, next(batches)))
            timeline.mark(END)
    wait(device)
    alone = [between(*pair) for pair in unwatched]
    spent = [{**step, WHOLE: between(*pair)} for step, pair in zip(timeline.steps(), watched, strict=True)]
    mean = undisturbed(spent, WHOLE)
    parts = {name: mean[name] for name in PARTS if name in mean}
    return Found(Spread.of(alone), parts, mean[WHOLE], undisturbed([{WHOLE: ms} for ms in alone], WHOLE)[WHOLE])


def timed(trainer: Trainer, batches: list[Batch]) -> tuple[Any, Any]:
    """Both ends of a step."""
    began = stamp(trainer.device)
    train_step(trainer, batches)
    return began, stamp(trainer.device)


def durations(trainer: Trainer, step: Callable[[], float], count: int) -> list[float]:
    """Milliseconds of so many steps one after another, each divided by what `step` returns, the share that it is of
    a full one. Nothing waits for the device before the last."""
    stamps, shares = [stamp(trainer.device)], []
    for _ in range(count):
        shares.append(step())
        stamps.append(stamp(trainer.device))
    wait(trainer.device)
    return [between(*pair) / share for pair, share in zip(pairwise(stamps), shares, strict=True)]


@contextmanager
def watching(trainer: Trainer, timeline: Timeline) -> Iterator[None]:
    """While the block runs, steps say on the timeline which part they are at.

    From the end of a forward pass until the method hears that gradients are complete, it is the backward pass: an
    encoder that computes again what it did not keep does so for its sake.
    """
    method = trainer.method

    def inside(name: str) -> Callable[[Call], Call]:
        return lambda call: unless_backward(timeline, call, timeline.within(name, call))

    with ExitStack() as stack:
        for encoder in encoders(method):
            stack.enter_context(watched(encoder, inside(role(method, encoder)), inside(EMBEDDING)))
        stack.enter_context(replaced(method, "forward", lambda call: forward(timeline, call)))
        stack.enter_context(replaced(method, "after_backward", lambda call: after(timeline, call)))
        stack.enter_context(replaced(trainer, "recorder", lambda recorder: None))  # steps as written
        stack.enter_context(replaced(optim, "step", lambda call: timeline.within(OPTIMISER, call)))
        timeline.settle(REST)
        yield


def unless_backward(timeline: Timeline, plain: Call, timed: Call) -> Call:
    """The timed function, but for what is computed again."""
    return lambda *given, **named: (plain if timeline.open[0] == BACKWARD else timed)(*given, **named)


def forward(timeline: Timeline, call: Call) -> Call:
    """A forward pass, after which comes a backward pass."""

    def passed(*given: Any, **named: Any) -> Any:
        timeline.settle(REST)
        with timeline.part(HEADS):
            losses = call(*given, **named)
        timeline.settle(BACKWARD)
        return losses

    return passed


def after(timeline: Timeline, call: Call) -> Call:
    """What follows the last backward pass of a step."""

    def told(*given: Any, **named: Any) -> Any:
        timeline.settle(REST)
        return call(*given, **named)

    return told
