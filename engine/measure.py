"""What a run costs and where it ran: time, memory, and the versions that produced a figure."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch


def peak_memory(device: torch.device) -> int:
    """Peak bytes: those allocated on a GPU, the resident set of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and commit: what a record needs to be worth anything."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda,
        "packages": {name: version(name) for name in ("vitkiln", "torch", "triton", "numpy", "pillow")},
    }


def version(package: str) -> str | None:
    """Of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def commit() -> str | None:
    """The commit of this checkout, with a + where files differ from it; None in an installed wheel."""
    here = Path(__file__).resolve().parents[1]
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class StepClock:
    """Times steps over the window since the last report.

    The first window holds compilation and cold caches, so the estimate of what is left starts with the second.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.steps = self.images = 0
        self.history: list[float] = []

    def count(self, images: int) -> None:
        """A step has been taken, of so many images."""
        self.steps += 1
        self.images += images

    def report(self, waited: float) -> dict[str, float]:
        """images/s and milliseconds a step since the last report, `waited` seconds of them altogether for data; starts
        the next window."""
        now = time.perf_counter()
        seconds = (now - self.began) / max(1, self.steps)
        waited = waited / max(1, self.steps)
        self.history = [*self.history[-49:], seconds]
        rate = self.images / max(1, self.steps) / seconds
        self.began, self.steps, self.images = now, 0, 0
        return {"images_per_second": rate, "step_ms": 1000 * seconds, "data_ms": 1000 * waited}

    def pause(self, seconds: float) -> None:
        """Leave out time that was spent on saving or evaluating."""
        self.began += seconds

    @property
    def seconds_per_step(self) -> float:
        return median(self.history[1:] or self.history or [0.0])
