"""Lines of benchmarks/records/gpu.jsonl: what was measured, on what, and how near to the limits of that GPU."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from vitkiln.engine import measure

RECORDS = Path(__file__).parents[1] / "records" / "gpu.jsonl"
SCHEMA = 1


def append(file: Path, line: dict[str, Any]) -> None:
    """At once and whole, so that whoever stops the run loses nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read(file: Path) -> list[dict[str, Any]]:
    """Every line; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def environment(commit: str | None) -> dict[str, Any]:
    """What every line says of where it comes from."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": measure.version("triton"),
        "commit": commit or measure.commit(),
    }


def driver() -> str | None:
    """Its version, as nvidia-smi says it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def clock_and_power() -> dict[str, Any]:
    """As they are now; nothing where they cannot be read."""
    try:
        return {"clock_mhz": torch.cuda.clock_rate(), "power_w": torch.cuda.power_draw() / 1e3}
    except Exception:  # the library may be absent, the driver may refuse: no reason to lose a time
        return {}


def now() -> str:
    """UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def limits(out: Path, gpu: str) -> tuple[float, float] | None:
    """Bytes and bf16 operations a second that this GPU reached last, or None where either was not measured."""
    found: dict[str, float] = {}
    for line in [*read(RECORDS), *read(out)]:
        if line.get("gpu") == gpu and "median" in line and line["suite"] == "ceilings":
            if line["name"] == "copy":
                found["bytes"] = line["bytes"] / line["median"] * 1e3
            if line["name"] == "matmul" and set(line["shape"].values()) == {8192}:
                found["flops"] = line["flops"] / line["median"] * 1e3
    return (found["bytes"], found["flops"]) if len(found) == 2 else None


def roofline(moved: int, flops: int, milliseconds: float, limits: tuple[float, float] | None) -> float | None:
    """The least time that the limits allow, over the time that was taken."""
    if limits is None or not moved + flops:
        return None
    return round(max(moved / limits[0], flops / limits[1]) / milliseconds * 1e3, 4)
