"""Do formulas help? CIFAR-10 after pre-training on formulas and from scratch, for the same time of fine-tuning.

python -m benchmarks.data.fractal_pretraining --root CIFAR10 --out DIR
    [--pretrain 30] [--finetune 15] [--categories 100] [--threads 2] [--evaluate-every 1] [--record]

Times are minutes. One encoder is pre-trained on formulas; then the same fine-tuning recipe runs from it and from
scratch, side by side with half of the threads each, so that whatever else the machine does slows both alike. Accuracy
on the test images is taken at the same epochs of both; a run that DIR holds already is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.methods.runs import begin, curve, end, record, side_by_side

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
    "data": {"batch_size": 128, "workers": 0},
    "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup_epochs": 1},
    "run": {**RUN, "epochs": 15},
}


def train(chosen: argparse.Namespace) -> dict[str, Path]:
    """One run, then two."""
    threads, pretrained = chosen.threads, chosen.out / "formulas"
    drawn = {"categories": chosen.categories, "workers": max(0, threads - 1)}
    end(begin("fractal", pretrained, threads, PRETRAIN, {"data": drawn, "run": {"minutes": chosen.pretrain}}))
    budget = {"minutes": chosen.finetune, "evaluate_every": chosen.evaluate_every}
    folders, runs = {}, []
    for name, weights in (("after formulas", str(pretrained)), ("from scratch", None)):
        more = {"encoder": {"weights": weights}, "data": {"root": chosen.root}, "run": budget}
        folders[name] = chosen.out / name.replace(" ", "_")
        half = max(1, threads // 2)
        runs.append(begin("fractal_finetune_cifar10", folders[name], half, FINETUNE, more))
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
    curves = {name: curve(folder, "val_top1") for name, folder in train(chosen).items()}
    side_by_side(curves, "val_top1")
    if chosen.record:
        about = {key: getattr(chosen, key) for key in ("pretrain", "finetune", "categories", "threads")}
        name = "pre-training on formulas, then CIFAR-10"
        record("fractal_pretraining.jsonl", name, {**about, "curves": curves})


if __name__ == "__main__":
    main()
