"""Do formulas help? CIFAR-10 after pre-training on formulas and from scratch, for the same time of fine-tuning.

python -m benchmarks.data.fractal_pretraining --root CIFAR10 --out DIR
    [--pretrain 30] [--finetune 15] [--categories 100] [--threads 2] [--evaluate-every 1] [--record]

Times are minutes. One encoder is pre-trained on formulas; then the same fine-tuning recipe runs from it and from
scratch, side by side with half of the threads each, so that whatever else the machine does slows both alike. Accuracy
on the test images is taken at the same epochs of both; a run that DIR holds already is not repeated.
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

RECORDS = Path(__file__).parents[1] / "records" / "fractal_pretraining.jsonl"
ENCODER = {  # 0.8 M parameters, 64 patches
    "name": "vit_tiny", "width": 128, "depth": 4, "heads": 4, "image_size": 32, "patch_size": 4, "drop_path": 0.0,
    "position": "sincos", "init": "mocov3",
}  # fmt: skip
INK = {"mean": [0.1] * 3, "std": [0.2] * 3}  # of formula-driven images: mostly black
RUN = {"precision": "fp32", "epochs": 30, "log_every": 20, "checkpoint_every": 2000, "knn": False}
PRETRAIN: dict[str, dict[str, Any]] = {
    "method": {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "randaugment": None, "crop_scale": [0.6, 1.0]},
    "encoder": {**ENCODER, **INK},
    "data": {
        "style": "point_gray",
        "instances": 100,
        "fractal_size": 64,
        "fractal_points": 8_000,
        "batch_size": 128,
        "repeats": 1,
    },
    "optim": {"lr": 2e-3, "warmup_epochs": 1},
    "run": RUN,
}
FINETUNE: dict[str, dict[str, Any]] = {
    "method": {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "randaugment": None, "crop_scale": [0.4, 1.0]},
    "encoder": ENCODER,
    "data": {"batch_size": 128},
    "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup_epochs": 1},
    "run": {**RUN, "epochs": 15},
}


def overrides(sections: dict[str, dict[str, Any]], **more: Any) -> list[str]:
    """As the command takes them; `data__root` stands for data.root."""
    keys = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    keys |= {name.replace("__", "."): value for name, value in more.items()}
    return [f"{key}={json.dumps(value)}" for key, value in keys.items()]


def begin(recipe: str, changes: list[str], folder: Path, threads: int) -> subprocess.Popen[bytes] | None:
    """A run, unless it is done."""
    status = folder / "status.json"
    if status.exists() and json.loads(status.read_text())["state"] == "finished":
        return None
    command = ["engine", "run", recipe, *changes, "--out", str(folder)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=sys.stderr)


def end(*runs: subprocess.Popen[bytes] | None) -> None:
    """Wait for all."""
    if any(run.wait() for run in runs if run):
        sys.exit("a run failed; its last lines say why")


def curve(folder: Path) -> list[dict[str, float]]:
    """Accuracy on the test images along a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = ("epoch", "seconds", "val_top1")
    return [{key: line[key] for key in wanted if key in line} for line in lines if "val_top1" in line]


def train(chosen: argparse.Namespace) -> dict[str, Path]:
    """One run, then two."""
    threads, workers = chosen.threads, max(0, chosen.threads - 1)
    pretrain = overrides(
        PRETRAIN, data__categories=chosen.categories, data__workers=workers, run__minutes=chosen.pretrain
    )
    pretrained = chosen.out / "formulas"
    end(begin("fractal", pretrain, pretrained, threads))
    folders, runs = {}, []
    for name, weights in (("after formulas", str(pretrained)), ("from scratch", None)):
        changes = overrides(
            FINETUNE, encoder__weights=weights, data__root=chosen.root, data__workers=0,
            run__minutes=chosen.finetune, run__evaluate_every=chosen.evaluate_every,
        )  # fmt: skip
        folders[name] = chosen.out / name.replace(" ", "_")
        runs.append(begin("fractal_finetune_cifar10", changes, folders[name], max(1, threads // 2)))
    end(*runs)
    return folders


def main() -> None:
    """Train, print both curves, and append a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with train/ and test/, a folder for each class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretrain", type=float, default=30.0, help="minutes")
    parser.add_argument("--finetune", type=float, default=15.0, help="minutes")
    parser.add_argument("--categories", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate-every", type=float, default=1.0, help="epochs of the schedule")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    folders = train(chosen)
    curves = {name: curve(folder) for name, folder in folders.items()}
    show(curves)
    if chosen.record:
        about = {key: getattr(chosen, key) for key in ("pretrain", "finetune", "categories", "threads")}
        record = {"suite": "data", "name": "pre-training on formulas, then CIFAR-10", **about, "curves": curves}
        with RECORDS.open("a") as file:
            file.write(json.dumps({**record, "environment": measure.environment(torch.device("cpu"))}) + "\n")


def show(curves: dict[str, list[dict[str, float]]]) -> None:
    """Accuracy at each evaluation of both runs, side by side."""
    table = Table("", *curves)
    for place in range(max(map(len, curves.values()))):
        cells = [
            f"{points[place]['val_top1']:.4g} at {points[place]['seconds']:.0f} s" if place < len(points) else ""
            for points in curves.values()
        ]
        table.add_row(str(place + 1), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
