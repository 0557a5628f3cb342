"""What feeds the steps of a run: a loader, its hand-over, and one word where steps wait for them."""

from __future__ import annotations

import logging

import torch

from ..vocabulary import Batch
from .ahead import hand_over
from .loader import Loader
from .stages import TOO_LONG

log = logging.getLogger("vitkiln")


class Feed:
    """The micro-batches of one step after another."""

    def __init__(self, loader: Loader, device: torch.device):
        self.loader = loader
        self.batches = hand_over(iter(loader), device)
        self.windows, self.told = 0, False

    def step(self, parts: int) -> list[Batch]:
        return [next(self.batches) for _ in range(parts)]

    def waited(self) -> float:
        """Seconds that steps have waited since this was asked last."""
        return self.batches.waited()

    def watch(self, step_ms: float, data_ms: float) -> None:
        """Tell once, after a first window in which processes started, what limits steps that wait too long."""
        self.windows += 1
        waiting = data_ms / max(step_ms, 1e-9)
        if self.windows > 1 and waiting > TOO_LONG and not self.told:
            self.told = True
            log.warning("%s", self.loader.stages.advice(waiting))

    def close(self) -> None:
        """End threads and processes."""
        self.batches.close()
        self.loader.close()
