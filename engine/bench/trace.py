"""A few steps as PyTorch's profiler sees them, for whoever wants to look closer than any table."""

from __future__ import annotations

import os
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from ..train import Trainer, train_step
from .clock import wait
from .patience import WARM_UP
from .synthetic import steps

STEPS = 3
QUIET = "6"  # else the profiler tells on stderr that it starts and stops


def trace(trainer: Trainer, file: Path) -> None:
    """Write a Chrome trace of the training step on synthetic batches."""
    batches, activities = steps(trainer), [ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    for _ in range(WARM_UP):
        train_step(trainer, next(batches))
    wait(trainer.device)
    os.environ.setdefault("KINETO_LOG_LEVEL", QUIET)
    with profile(activities=activities) as found:
        for _ in range(STEPS):
            train_step(trainer, next(batches))
        wait(trainer.device)
    found.export_chrome_trace(str(file))
