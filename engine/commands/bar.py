"""How far something is: a bar for a terminal, a line at each tenth for a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..bench.table import number
from .output import note

Advance = Callable[[int], None]


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Told on stderr, with the rate and the time to go; what was done before does not count for the rate."""
    if not sys.stderr.isatty():
        yield Tenths(what, total, done).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


class Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{number(task.speed)}/s")


class Tenths:
    """Lines."""

    def __init__(self, what: str, total: int, done: int):
        self.what, self.total, self.before, self.done = what, total, done, done
        self.began, self.told = time.perf_counter(), 10 * done // max(1, total)

    def advance(self, count: int) -> None:
        self.done += count
        tenth = 10 * self.done // max(1, self.total)
        if tenth > self.told:
            self.told = tenth
            rate = (self.done - self.before) / max(1e-9, time.perf_counter() - self.began)
            left = timedelta(seconds=round((self.total - self.done) / rate))
            note(f"{self.done:,} of {self.total:,} {self.what}, {number(rate)}/s, {left} to go")
