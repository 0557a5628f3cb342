"""python -m benchmarks.gpu [--only PART,..] [--seconds N] [--out FILE] [--dry-run]: every measurement, in order."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from . import record
from .run import Dead, run
from .work import Place

PARTS = {  # in this order, each with its share of the time; what one leaves goes to those after it
    "ceilings": 40,
    "attention": 130,
    "layer_norm": 45,
    "linear_gelu": 45,
    "patch_embed": 45,
    "sample_tokens": 25,
    "place_tokens": 25,
    "losses": 30,
    "step": 200,
}


def main() -> int:
    """Measure and append; with --dry-run compare tiny results on the CPU, and return 1 where any differ."""
    options = arguments()
    place = Place(torch.device("cpu" if options.dry_run else "cuda"), *kind(options.dry_run))
    started = time.monotonic()
    lines: list[dict[str, Any]] = []
    about = {} if options.dry_run else record.environment(options.commit)
    for done, part in enumerate(options.only):
        deadline = started + options.seconds * share(options.only[: done + 1], options.only)
        try:
            measure(part, place, deadline, partial(take, lines, None if options.dry_run else options.out, about))
        except Dead as error:
            print(f"the GPU is lost ({error}); going on after {part} in a new process", file=sys.stderr)
            go_on(options, options.only[done + 1 :], options.seconds - (time.monotonic() - started))
    failed = [line for line in lines if "error" in line]
    print(f"{len(lines)} measurements, {len(failed)} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed and options.dry_run else 0


def kind(dry_run: bool) -> tuple[torch.dtype, bool]:
    """The type of numbers, and whether everything is tiny."""
    return (torch.float32, True) if dry_run else (torch.bfloat16, False)


def share(done: list[str], wanted: list[str]) -> float:
    """Of the time, at the end of the parts that are done."""
    return sum(PARTS[part] for part in done) / sum(PARTS[part] for part in wanted)


def measure(part: str, place: Place, deadline: float, take: Any) -> None:
    """Every work of a part, until its time is up. A part that cannot even be imported is an error of its own."""
    try:
        works = list(import_module(f"{__package__}.{part}").works(place))
    except Exception as error:
        take({"suite": part, "name": part, "provider": "all", "error": f"{type(error).__name__}: {error}"})
        return
    for number, work in enumerate(works):
        if time.monotonic() > deadline and not place.tiny:
            print(f"{part}: time is up, {len(works) - number} of {len(works)} are left out")
            return
        run(part, work, place, take.keywords.get("limits"), take)


def take(lines: list[dict[str, Any]], out: Path | None, about: dict[str, Any], line: dict[str, Any]) -> None:
    """Print a line, and write it where lines are kept."""
    line = {"schema": record.SCHEMA, **line, **about, "time": record.now()}
    lines.append(line)
    print(shown(line), flush=True)
    if out:
        record.append(out, line)
