"""Whole runs as experiments: several at once on their share of the machine, then their curves side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vitkiln.engine import measure

RECORDS = Path(__file__).parents[1] / "records"
Process = subprocess.Popen[bytes]
Changes = Mapping[str, Mapping[str, Any]]


def overrides(*parts: Changes) -> list[str]:
    """Sections with their keys, later parts over earlier ones, as the command takes them."""
    keys = {f"{section}.{key}": value for part in parts for section in part for key, value in part[section].items()}
    return [f"{key}={json.dumps(value)}" for key, value in keys.items()]


def begin(recipe: str, folder: Path, threads: int, *parts: Changes) -> Process | None:
    """A run under way, or None where the folder holds it finished."""
    status = folder / "status.json"
    if status.exists() and json.loads(status.read_text())["state"] == "finished":
        return None
    command = ["engine", "run", recipe, *overrides(*parts), "--out", str(folder)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=sys.stderr)


def end(*runs: Process | None) -> None:
    """Wait for all."""
    codes = [run.wait() for run in runs if run]
    if any(codes):
        sys.exit("a run failed; its last lines say why")


def curve(folder: Path, *wanted: str) -> list[dict[str, float]]:
    """The lines of a run's metrics that have the last of these, with epoch, seconds and all of them."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("epoch", "seconds", *wanted)
    return [{key: line[key] for key in names if key in line} for line in lines if wanted[-1] in line]


def told(folder: Path, name: str) -> Any:
    """A file of JSON that a run left behind."""
    return json.loads((folder / name).read_text())


def side_by_side(curves: Mapping[str, list[dict[str, float]]], metric: str) -> None:
    """A row for each evaluation."""
    table = Table("", *curves)
    for place in range(max(map(len, curves.values()))):
        cells = [
            f"{points[place][metric]:.4g} at {points[place]['seconds']:.0f} s" if place < len(points) else ""
            for points in curves.values()
        ]
        table.add_row(str(place + 1), *cells)
    Console().print(table)


def record(file: str, name: str, found: Mapping[str, Any]) -> None:
    """Append to benchmarks/records."""
    environment = measure.environment(torch.device("cpu"))
    with (RECORDS / file).open("a") as stream:
        stream.write(json.dumps({"suite": "methods", "name": name, **found, "environment": environment}) + "\n")
