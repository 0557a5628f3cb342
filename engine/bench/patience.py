"""How often something is repeated: as often as its time allows, after what comes first has been left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .clock import wait

WARM_UP, FEWEST, MOST = 5, 4, 1000  # steps; a CUDA graph is recorded by the fourth


@dataclass(frozen=True)
class Patience:
    """Seconds for each thing that is measured, or a number of steps that is asked for."""

    seconds: float = 8.0
    steps: int | None = None

    def told(self, times: int = 1) -> str:
        """How long it will be, for people."""
        if self.steps is None:
            return f"about {self.seconds * times:g} s"
        return f"{self.steps * times} step{'' if self.steps * times == 1 else 's'}"

    def warm(self, step: Callable[[], Any], device: torch.device) -> int:
        """Take the first steps, which compile and fill caches, and one more; returns how many to measure."""
        step()
        wait(device)
        began = time.perf_counter()
        for _ in range(WARM_UP - 1):
            if time.perf_counter() - began > self.seconds:
                break
            step()
            wait(device)
        began = time.perf_counter()
        step()
        wait(device)
        each = max(1e-6, time.perf_counter() - began)
        return self.steps or max(FEWEST, min(MOST, round(self.seconds / each)))
