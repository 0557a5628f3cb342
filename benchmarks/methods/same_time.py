"""Does detecting misplaced tokens help? Each base beside DILEMMA over it, side by side, for the same wall-clock time.

python -m benchmarks.methods.same_time --root CIFAR10 --out DIR [--minutes 15] [--threads 1] [--base NAME] [--record]

A base and DILEMMA over it train at the same moment, each on `threads` threads: what disturbs one disturbs the other.
Both are shipped recipes made small in the same way (SMALL). A run that DIR holds already is not repeated.
kNN and linear accuracy are of the encoder that is exported, which for DINO is the teacher's. The untrained encoder is
that of a run of one step, whose rate, the first of a warm-up, is nought.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vitkiln.engine import measure

RECORDS = Path(__file__).parents[1] / "records" / "same_time.jsonl"
SMALL = {  # an encoder of 0.8 M parameters with 16 patches, in batches of 256
    "encoder": {"name": "vit_tiny", "width": 128, "depth": 4, "heads": 4, "image_size": 32, "patch_size": 8},
    "data": {"batch_size": 256, "workers": 0},
    "optim": {"lr": 1e-3, "warmup_epochs": 1},
    "run": {"epochs": 6, "precision": "fp32", "log_every": 20, "checkpoint_every": 2000},
}
PLAIN = {"crop_scale": [0.2, 1.0], "blur": [0.0, 0.0], "solarize": [0.0, 0.0]}
OF_BASE: dict[str, dict[str, Any]] = {
    "mocov3": {"method": {"hidden": 512, "output": 128, **PLAIN}, "encoder": {"freeze_patch_embed": False}},
    "dino": {
        "method": {
            "hidden": 512, "bottleneck": 128, "output": 2048, "local_crops": 4, "local_size": 16, "momentum": 0.99,
            "global_scale": [0.4, 1.0], "local_scale": [0.1, 0.4], "blur": [0.0] * 3, "solarize": [0.0] * 3,
        },
        "encoder": {"drop_path": 0.0},
    },
    "simclr": {
        "method": {"hidden": 512, "output": 128, "crop_scale": [0.2, 1.0], "blur": 0.0},
        "encoder": {"freeze_patch_embed": False},
    },
    "mae": {"method": {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4}},
}  # fmt: skip
LINEAR_IMAGES = 5_000  # of either split: eighteen heads over 90 epochs of all would take longer than training
KEEP = {"mocov3": 0.5, "dino": 0.5, "simclr": 0.5, "mae": 0.25}


def overrides(base: str, sparse: bool, root: str, minutes: float) -> list[str]:
    """Of the base's recipe, or of DILEMMA's over it."""
    method = {"method": {"keep": KEEP[base]}} if sparse else {}
    sections = [SMALL, OF_BASE[base], method, {"data": {"root": root}, "run": {"minutes": minutes}}]
    merged = {f"{s}.{k}": v for part in sections for s, values in part.items() for k, v in values.items()}
    return [f"{key}={json.dumps(value)}" for key, value in merged.items()]


def recipes(base: str) -> dict[str, str]:
    """By what is said of them in the table."""
    return {"base": base, "dilemma": "dilemma" if base == "mocov3" else f"dilemma_{base}"}


def train(base: str, root: str, minutes: float, threads: int, out: Path) -> None:
    """Both at once, and the untrained one after them; those that have finished before are left as they are."""
    began = [begin(base, kind, root, minutes, threads, out / base / kind) for kind in recipes(base)]
    if any(process.wait() for process in began if process):
        sys.exit(f"{base}: a run failed; its folder under {out / base} says why")
    untrained = begin(base, "untrained", root, minutes, threads, out / base / "untrained")
    if untrained and untrained.wait():
        sys.exit(f"{base}: the untrained run failed")


def begin(
    base: str, kind: str, root: str, minutes: float, threads: int, folder: Path
) -> subprocess.Popen[bytes] | None:
    """A run under way, or None where it is there already."""
    if (folder / "export").exists():
        return None
    changes = overrides(base, kind == "dilemma", root, minutes)
    if kind == "untrained":
        changes += ["run.minutes=null", "run.steps=1", "run.knn=false"]
    command = ["engine", "run", recipes(base).get(kind, base), *changes, "--out", str(folder)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=sys.stderr)


def evaluated(folder: Path, protocol: str, threads: int) -> Any:
    """Top-1 of a finished run on the data that it was trained on; linear heads on LINEAR_IMAGES of either split."""
    file = folder / f"evaluation-{protocol}.json"
    key, ended = ("untrained_top1", "base") if folder.name == "untrained" else ("top1", folder.name)
    measured = folder.parent / ended / "evaluation.json"  # at the end of the run
    if protocol == "knn" and measured.exists() and not file.exists():
        return json.loads(measured.read_text())[key]
    if not file.exists():
        limit = ["--limit", str(LINEAR_IMAGES)] if protocol == "linear" else []
        command = ["engine", "eval", str(folder), "--protocol", protocol, *limit, "--workers", "0", "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    return json.loads(file.read_text())[-1]["top1"]


def outcome(base: str, out: Path, threads: int) -> list[dict[str, Any]]:
    """Lines of the table: untrained, base, DILEMMA."""
    lines = []
    for kind in ("untrained", *recipes(base)):
        folder = out / base / kind
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        trained = last if kind != "untrained" else {**last, "step": 0, "epoch": 0.0}
        about = {"base": base, "method": kind, "steps": trained["step"], "epochs": round(trained["epoch"], 2)}
        losses = {"loss": last["loss"], "detection loss": last.get("detection_loss")}
        scores = {name: evaluated(folder, name, threads) for name in ("knn", "linear")}
        lines.append({**about, **losses, "kNN (k=20)": scores["knn"]["k20"], "linear": scores["linear"]})
    return lines


def main() -> None:
    """Train, evaluate, print, and append a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="a folder with train/ and test/, a folder for each class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", nargs="+", choices=[*OF_BASE], default=[*OF_BASE])
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    lines = []
    for base in chosen.base:
        train(base, chosen.root, chosen.minutes, chosen.threads, chosen.out)
        lines += outcome(base, chosen.out, chosen.threads)
    show(lines)
    if chosen.record:
        about = {"minutes": chosen.minutes, "threads of each run": chosen.threads, "classes": 10}
        record = {"suite": "methods", "name": f"same time: {' '.join(chosen.base)}", **about, "runs": lines}
        environment = measure.environment(torch.device("cpu"))
        with RECORDS.open("a") as file:
            file.write(json.dumps({**record, "environment": environment}) + "\n")


def show(lines: list[dict[str, Any]]) -> None:
    """On the terminal."""
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in line.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
