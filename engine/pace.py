"""Where a run is: how much of its budget is used, and what rate follows from that."""

from __future__ import annotations

from dataclasses import dataclass

from .schedule import SCHEDULES
from .settings import Optim, Run
from .vocabulary import Moment


@dataclass
class Pace:
    """Counts steps and seconds of training against the budget: minutes, or steps, or epochs, whichever is set first.

    The schedule is written for `run.epochs`. A budget of steps or minutes compresses the whole of it, warm-up
    included, into that budget.
    """

    run: Run
    steps_per_epoch: int
    step: int = 0
    seconds: float = 0.0

    @property
    def planned(self) -> float:
        """Steps of the schedule; with a budget of minutes, the steps that its epochs would have taken."""
        if self.run.steps and not self.run.minutes:
            return self.run.steps
        return self.run.epochs * self.steps_per_epoch

    @property
    def steps(self) -> float | None:
        """How many there will be; None with a budget of minutes."""
        return None if self.run.minutes else self.planned

    @property
    def position(self) -> float:
        """Where on the schedule, in [0, planned]."""
        if self.run.minutes:
            return min(1.0, self.seconds / (60 * self.run.minutes)) * self.planned
        return min(self.step, self.planned)

    @property
    def done(self) -> bool:
        return self.position >= self.planned

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.step / self.steps_per_epoch

    @property
    def progress(self) -> float:
        return self.position / self.planned

    @property
    def moment(self) -> Moment:
        """Of the step to come."""
        return Moment(self.step, self.progress * self.run.epochs, self.progress)

    def rate(self, optim: Optim, base: float) -> float:
        """The learning rate of the step to come."""
        epoch = self.planned / self.run.epochs  # steps of the schedule's
        warmup, position = optim.warmup_epochs * epoch, self.position
        if optim.rate_per == "epoch":
            position = int(position / epoch + 1e-9) * epoch
        return SCHEDULES[optim.schedule](position, self.planned, warmup, base, optim.min_lr)

    def remaining(self, seconds_per_step: float) -> float:
        """Seconds to go."""
        if self.run.minutes:
            return 60 * self.run.minutes - self.seconds
        return (self.planned - self.step) * seconds_per_step


def budget(run: Run) -> str:
    """In words.

    >>> budget(Run(steps=80)), budget(Run(minutes=15.0)), budget(Run())
    ('80 steps', '15 minutes', '300 epochs')
    """
    if run.minutes:
        return f"{run.minutes:g} minutes"
    return f"{run.steps} steps" if run.steps else f"{run.epochs:g} epochs"
