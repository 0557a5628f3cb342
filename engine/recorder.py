"""Taking the same step again and again: as it is written at first, and then by a recording of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from . import distributed
from .methods.method import Method
from .vocabulary import Batch, Losses

log = logging.getLogger("vitkiln")
WARM = 3  # steps before a recording: kernels are compiled, the optimiser's state is there
RESTLESS = 3  # changes of a method, each before a step was recorded, after which none is recorded any more
Body = Callable[[], Losses]


class Tape(Protocol):
    """What a step can be recorded on."""

    def eagerly(self, body: Body) -> Losses:
        """Take a step as it is written."""

    def watched(self, body: Body) -> tuple[Losses, str | None]:
        """The same, and what in it could not be recorded."""

    def record(self, body: Body) -> Losses:
        """Record a step without taking it; RuntimeError where that fails. What it lost is there after a replay."""

    def replay(self) -> None:
        """Take the step that was recorded."""

    def recover(self) -> None:
        """After a recording that failed: return if the device goes on working, raise if it does not."""


class Recorder:
    """Takes steps: the first few as they are written, then by a recording, whose inputs are copied to where it looks.

    `update` turns the micro-batches of a step into losses; what changes from step to step it must read from tensors.
    The method's plain numbers, flags and words are constants of a recording: when one changes, the next steps are
    taken as written and another is recorded. Steps of another number of micro-batches than `parts` are never recorded.
    Where recording is not possible the reason is told once and steps are taken as written, the one that failed after
    `again`, which undoes what its code has left in the method.
    """

    def __init__(
        self,
        update: Callable[[list[Batch]], Losses],
        method: nn.Module,
        tape: Tape,
        *,
        parts: int = 1,
        warm: int = WARM,
        again: Callable[[], object] = lambda: None,
    ):
        self.update, self.method, self.tape, self.again = update, method, tape, again
        self.parts, self.warm = parts, warm
        self.methods = {name: part for name, part in method.named_modules() if isinstance(part, Method)}
        self.parameters = [*method.parameters()]
        self.constants: dict[str, object] = {}
        self.inputs: list[Batch] = []
        self.losses: Losses | None = None  # of the recording
        self.taken = self.restless = 0
        self.reason: str | None = None  # why nothing is recorded any more

    def __call__(self, batches: list[Batch]) -> Losses:
        if self.reason is None:
            self.look()
        if self.reason is not None or len(batches) != self.parts:
            return self.update(batches)
        self.inputs = self.inputs or [alike(batch) for batch in batches]
        for mine, batch in zip(self.inputs, batches, strict=True):
            copy(batch, mine)
        if self.taken < self.warm:
            return self.warm_up()
        if self.losses is None:
            self.losses = self.recorded()
        if self.losses is None:
            return self.update(batches)
        self.tape.replay()
        return cloned(self.losses)

    def body(self) -> Losses:
        return self.update(self.inputs)

    def look(self) -> None:
        """Begin anew where a constant of the method has changed."""
        now = self.constants_now()
        if now == self.constants:
            return
        changed = [name for name in {**self.constants, **now} if self.constants.get(name) != now.get(name)]
        self.restless = 0 if self.losses else self.restless + bool(self.constants)
        self.constants, self.losses, self.taken = now, None, 0
        if self.restless == RESTLESS:
            self.give_up(f"{changed[0]} changes from step to step; as a number a graph would keep it, in a tensor not")

    def constants_now(self) -> dict[str, object]:
        """Numbers, flags and words of a method and of those that it is laid over, and which parameters learn."""
        found: dict[str, object] = {
            ".".join(filter(None, ("method", prefix, name))): value
            for prefix, part in self.methods.items()
            for name, value in vars(part).items()
            if isinstance(value, bool | int | float | str)
        }
        return {**found, "what learns": [parameter.requires_grad for parameter in self.parameters]}

    def warm_up(self) -> Losses:
        """A step as written; the last one before a recording shows whether there can be one."""
        self.taken += 1
        if self.taken < self.warm:
            return self.tape.eagerly(self.body)
        losses, reason = self.tape.watched(self.body)
        self.agree(reason)
        return losses

    def recorded(self) -> Losses | None:
        """What a recorded step loses, or None where it could not be recorded."""
        losses, reason = None, None
        try:
            losses = self.tape.record(self.body)
        except RuntimeError as error:
            reason = f"the step could not be recorded ({origin(error)})"
        self.agree(reason)
        if self.reason is None:
            return losses
        self.tape.recover()
        self.method.zero_grad(set_to_none=True)
        self.again()
        return None

    def agree(self, reason: str | None) -> None:
        """Ranks whose collectives meet record all or none."""
        if distributed.any_rank(reason is not None, self.inputs[0].seed.device):
            self.give_up(reason or "another rank cannot record its step")

    def give_up(self, reason: str) -> None:
        self.reason = reason
        log.warning("run.cuda_graph: %s; steps are launched kernel by kernel", reason)


def origin(error: BaseException) -> str:
    """The first line of what went wrong first: a capture that breaks off complains of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or type(error).__name__).splitlines()[0]


def alike(batch: Batch) -> Batch:
    """Room for such a batch."""
    labels = None if batch.labels is None else torch.empty_like(batch.labels)
    views = tuple(torch.empty_like(view) for view in batch.views)
    return Batch(views, torch.empty_like(batch.ids), torch.empty_like(batch.seed), labels)


def tensors(batch: Batch) -> list[Tensor]:
    """All that a batch is made of."""
    return [*batch.views, batch.ids, batch.seed, *([] if batch.labels is None else [batch.labels])]


def copy(batch: Batch, to: Batch) -> None:
    """In the order of the stream: after what made the batch, before what reads it."""
    for target, source in zip(tensors(to), tensors(batch), strict=True):
        target.copy_(source, non_blocking=True)


def cloned(losses: Losses) -> Losses:
    """Numbers that the next replay leaves alone."""
    terms, metrics = ({name: value.clone() for name, value in part.items()} for part in (losses.terms, losses.metrics))
    return Losses(terms, metrics)
