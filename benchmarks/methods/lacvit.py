"""LaCViT on CIFAR-10: contrast of labels and a linear head against cross-entropy, from one encoder, in equal time.

python -m benchmarks.methods.lacvit --root CIFAR10 --weights RUN --out DIR
    [--contrast 6] [--head 2] [--threads 2] [--record]

Times are minutes: cross-entropy has both. --weights is a run whose encoder both begin with; its sizes are theirs. The
two ways run side by side with half of the threads each; a run that DIR holds already is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from benchmarks.methods.runs import Process, begin, end, record, told

SIZES = ("name", "image_size", "patch_size", "width", "depth", "heads", "position", "init", "mean", "std")
CROPS = {"crop_scale": [0.4, 1.0]}
COMMON: dict[str, dict[str, Any]] = {
    "method": CROPS,
    "encoder": {"drop_path": 0.0},
    "run": {"precision": "fp32", "log_every": 20, "checkpoint_every": 5000},
}
LEARNING = {"optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup_epochs": 0.2, "rate_per": "step"}}


def encoder_of(run: Path) -> dict[str, Any]:
    """What the weights are of, as its recipe says."""
    section = yaml.safe_load((run / "recipe.yaml").read_text())["encoder"]
    return {key: section[key] for key in SIZES if key in section}


def stage(recipe: str, folder: Path, weights: Path, chosen: argparse.Namespace, more: Any) -> Process | None:
    """A run of half of the threads."""
    own = {
        "encoder": {**encoder_of(chosen.weights), "weights": str(weights)},
        "data": {"root": chosen.root, "batch_size": 128, "workers": 0},
    }
    return begin(recipe, folder, max(1, chosen.threads // 2), COMMON, own, more)


def train(chosen: argparse.Namespace) -> None:
    """Cross-entropy beside the two stages, one after the other."""
    contrast, head, out = chosen.contrast, chosen.head, chosen.out
    whole = {**LEARNING, "run": {"epochs": 4, "minutes": contrast + head}}
    baseline = stage("lacvit_cross_entropy", out / "cross_entropy", chosen.weights, chosen, whole)
    first = {**LEARNING, "run": {"epochs": 4, "minutes": contrast, "accumulate": 1}}
    end(stage("lacvit", out / "contrast", chosen.weights, chosen, first))
    second = {"run": {"epochs": 4, "minutes": head}}
    end(stage("lacvit_head", out / "head", out / "contrast", chosen, second), baseline)


def main() -> None:
    """Train, print, and append a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with train/ and test/, a folder for each class")
    parser.add_argument("--weights", type=Path, required=True, help="a run folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contrast", type=float, default=6.0, help="minutes")
    parser.add_argument("--head", type=float, default=2.0, help="minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    train(chosen)
    scores = {name: told(chosen.out / name, "evaluation-top1.json") for name in ("head", "cross_entropy")}
    isotropy, knn = (told(chosen.out / "contrast", f"evaluation{kind}.json") for kind in ("-isotropy", ""))
    print(scores, isotropy, knn, sep="\n")
    if chosen.record:
        about = {key: getattr(chosen, key) for key in ("contrast", "head", "threads")}
        found = {**about, "top-1": scores, "isotropy": isotropy, "kNN": knn}
        record("lacvit_cifar10.jsonl", "LaCViT on CIFAR-10 against cross-entropy", found)


if __name__ == "__main__":
    main()
