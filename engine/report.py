"""What a run says while it goes on: a progress bar or plain lines, metrics.jsonl, TensorBoard, train.log."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .pace import Pace
from .run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("vitkiln")
CONSOLE = Console(stderr=True)  # shared by log lines and progress bar, so that neither tears the other


class Reporter:
    """One for each run, on the first rank only; the others hold a silent one."""

    def __init__(self, folder: RunFolder | None, pace: Pace, tensorboard: bool):
        self.pace = pace
        self.file = (folder.path / "metrics.jsonl").open("a") if folder else None
        self.writer = summary_writer(folder.path / "tensorboard") if folder and tensorboard else None
        self.bar = progress_bar() if folder and sys.stderr.isatty() else None
        self.task = self.bar.add_task("", total=pace.planned, line="") if self.bar else None

    def step(self, position: float) -> None:
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=position)

    def metrics(self, values: dict[str, float], remaining: float) -> None:
        """One line, with the same numbers in metrics.jsonl and TensorBoard."""
        if self.file is None:
            return
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        line = told(values, self.pace.steps, remaining)
        if self.bar and self.task is not None:
            self.bar.update(self.task, line=brief(values, self.pace.steps, remaining))
        log.log(logging.DEBUG if self.bar else logging.INFO, line)
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, int(values["step"]))

    def accuracy(self, values: dict[str, float]) -> None:
        """A line of its own, of a classifier's accuracy on the second split."""
        if self.file is None:
            return
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        log.info("step %d  epoch %.2f  val top-1 %.2f%%", values["step"], values["epoch"], values["val_top1"])
        if self.writer:
            self.writer.add_scalar("val_top1", values["val_top1"], int(values["step"]))

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        """uint8 [H, W, 3], to TensorBoard."""
        if self.writer:
            self.writer.add_image(name, pixels.cpu(), step, dataformats="HWC")

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            if self.bar:
                self.bar.start()
            yield
        finally:
            for part in (
                self.bar and self.bar.stop,
                self.file and self.file.close,
                self.writer and self.writer.close,
            ):
                if part:
                    part()


def counted(step: float, total: float | None) -> str:
    """Where the clock is the budget, nobody knows how many steps there will be.

    >>> counted(20, 1170), counted(20, None)
    ('step 20/1170', 'step 20')
    """
    return f"step {step:.0f}" if total is None else f"step {step:.0f}/{total:.0f}"


def brief(values: dict[str, float], total: float | None, remaining: float) -> str:
    """What fits beside a bar: step 1200/125000  loss 6.412  4213.0 images/s  eta 7:12:00"""
    return (
        f"{counted(values['step'], total)}  loss {values['loss']:.4f}  "
        f"{values['images_per_second']:.1f} images/s  eta {timedelta(seconds=int(max(0, remaining)))}"
    )


def told(values: dict[str, float], total: float | None, remaining: float) -> str:
    """step 1200/125000  epoch 3.8  loss 6.412 (contrast 6.0 detection 0.41)  lr 1.2e-04  4213 images/s ..."""
    known = {
        "step",
        "epoch",
        "loss",
        "lr",
        "images_per_second",
        "step_ms",
        "data_ms",
        "peak_memory_bytes",
        "seconds",
    }
    terms = " ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in known)
    waiting = 100 * values["data_ms"] / max(values["step_ms"], 1e-9)
    return (
        f"{counted(values['step'], total)}  epoch {values['epoch']:.2f}  loss {values['loss']:.4f} ({terms})  "
        f"lr {values['lr']:.2e}  {values['images_per_second']:.1f} images/s  data {waiting:.1f}%  "
        f"memory {values['peak_memory_bytes'] / 2**30:.2f} GiB  eta {timedelta(seconds=int(max(0, remaining)))}"
    )


def progress_bar() -> Progress:
    """For a terminal; it goes away when the run ends."""
    columns = (
        BarColumn(30),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"),
    )
    return Progress(*columns, console=CONSOLE, transient=True)


def summary_writer(folder: Path) -> Any:
    """TensorBoard's, or None with a word about it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed: metrics go to metrics.jsonl alone (pip install 'vitkiln[tensorboard]')")
        return None
    return SummaryWriter(str(folder))


def set_up_logging() -> None:
    """Log lines on stderr: through the console of the progress bar on a terminal, plain elsewhere."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=CONSOLE, show_time=False, show_path=False, show_level=False, highlighter=None)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    first = os.environ.get("RANK", "0") == "0"
    handler.setLevel(logging.INFO if first else logging.WARNING)
    log.handlers = [handler]
    log.setLevel(logging.DEBUG)
    log.propagate = False


@contextmanager
def log_file(path: Path | None) -> Iterator[None]:
    """Copy the log to train.log while the run goes on."""
    if path is None:
        yield
        return
    if log.level == logging.NOTSET:  # called from a program that set up no logging
        log.setLevel(logging.INFO)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
