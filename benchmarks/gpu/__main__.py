"""python -m benchmarks.gpu [--only PART,..] [--seconds N] [--out FILE] [--commit ID] [--dry-run]"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from . import record
from .run import Dead, run
from .work import Place

PARTS = {  # in this order, each with its share of the time; what one leaves goes to those after it
    "ceilings": 35,
    "attention": 110,
    "step": 150,
    "layer_norm": 30,
    "linear_gelu": 35,
    "patch_embed": 35,
    "sample_tokens": 15,
    "place_tokens": 15,
    "losses": 20,
    "detection_loss": 10,
    "pixel_mse": 10,
    "prototypes": 25,
    "relation_loss": 20,
    "groups": 15,
    "fractals": 15,
    "optimizers": 15,
    "augment_views": 15,
    "crop_views": 25,
    "rand_augment": 10,
    "end_to_end": 200,
    "ablation": 60,
    "batches": 45,
    "graph": 30,
    "decode": 40,
}


def main() -> int:
    """Measure and append, or with --dry-run compare tiny results on the CPU; 1 where any of those fails."""
    options = arguments()
    torch.manual_seed(0)
    session = Session(options)
    gc.freeze()  # what is imported by now need not be looked through after every measurement
    try:
        for done in range(len(options.only)):
            session.measure(options.only[done], share(options.only[: done + 1], options.only))
    except Dead as error:
        print(f"the GPU is lost ({error}); a new process goes on", file=sys.stderr, flush=True)
        go_on(options, options.only[done + 1 :], options.seconds - session.elapsed())
    failed = sum("error" in line for line in session.lines)
    print(f"{len(session.lines)} measurements, {failed} of them failed, {session.elapsed():.0f} s")
    return 1 if failed and options.dry_run else 0


class Session:
    """Works parts off within their time, and keeps what comes out."""

    def __init__(self, options: argparse.Namespace):
        self.began, self.seconds = time.monotonic(), options.seconds
        self.out = None if options.dry_run else options.out
        self.place = place(options.dry_run)
        self.about = {} if options.dry_run else record.environment(options.commit)
        self.lines: list[dict[str, Any]] = []

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self.began

    def measure(self, part: str, until: float) -> None:
        """Every work of a part. One that cannot even be imported is an error of its own."""
        try:
            works = list(import_module(f"{__package__}.{part}").works(self.place))
        except Exception as error:  # the parts after it shall be measured
            self.take({"suite": part, "name": part, "provider": "all", "error": f"{type(error).__name__}: {error}"})
            return
        limits = record.limits(self.out, self.about["gpu"]) if self.out else None
        for number, work in enumerate(works):
            if self.elapsed() > until * self.seconds and not self.place.tiny:
                print(f"{part}: its time is up; {len(works) - number} of {len(works)} are left out")
                return
            run(part, work, self.place, limits, self.take)

    def take(self, line: dict[str, Any]) -> None:
        """Print a line, and write it where lines are kept."""
        line = {"schema": record.SCHEMA, **line, **self.about, "time": record.now()}
        self.lines.append(line)
        print(shown(line), flush=True)
        if self.out:
            record.append(self.out, line)


def place(dry_run: bool) -> Place:
    """The first GPU; for a dry run the CPU."""
    if dry_run:
        return Place(torch.device("cpu"), torch.float32, tiny=True)
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: PyTorch sees no CUDA device; --dry-run checks the set-up on a CPU")
    return Place(torch.device("cuda"), torch.bfloat16, tiny=False)


def share(done: list[str], wanted: list[str]) -> float:
    """Of the time, when the parts that are done should be."""
    return sum(PARTS[part] for part in done) / sum(PARTS[part] for part in wanted)


def go_on(options: argparse.Namespace, rest: list[str], seconds: float) -> None:
    """Replace this process, whose GPU answers no more, by one that does the rest."""
    if not rest or seconds <= 0:
        sys.exit(1)
    more = ["--only", ",".join(rest), "--seconds", f"{seconds:.0f}", "--out", str(options.out)]
    more += ["--commit", options.commit] if options.commit else []
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", __package__ or "benchmarks.gpu", *more])


def shown(line: dict[str, Any]) -> str:
    """A line of the table."""
    shape = " ".join(f"{name}={size}" for name, size in line.get("shape", {}).items())
    head = f"{line['name']:16} {line.get('mode', ''):16} {shape:28} {line['provider']:22}"
    if "error" in line:
        return f"{head} ERROR {line['error']}"
    limit = "" if line["roofline"] is None else f" {line['roofline']:6.1%} of the limit"
    rate = f" {line['images_per_second']:,.0f} images/s" if "images_per_second" in line else ""
    return f"{head} {line['median']:10.4f} ms [{line['p20']:.4f} {line['p80']:.4f}] n={line['n']}{limit}{rate}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", type=parts, default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=540, help="for everything; what does not fit is left out")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="lines are appended here")
    parser.add_argument("--commit", help="what is measured, where the checkout cannot say it")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU: compares results, writes nothing")
    return parser.parse_args()


def parts(text: str) -> list[str]:
    """Names, in the order in which parts are measured."""
    wanted = text.split(",")
    for name in wanted:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r}; must be of {', '.join(PARTS)}")
    return [part for part in PARTS if part in wanted]


if __name__ == "__main__":
    sys.exit(main())
