"""RelViT on CIFAR-10: relations learned in minutes, then fine-tuning from them and from scratch for the same epochs.

python -m benchmarks.methods.relvit --root CIFAR10 --out DIR [--pretrain 10] [--epochs 2] [--threads 2] [--record]

The encoder is 192 wide with 64 patches of 4 pixels. --pretrain is minutes. Fine-tuning runs side by side with half of
the threads each; a run that DIR holds already is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.methods.runs import begin, curve, end, record, side_by_side

SMALL: dict[str, dict[str, Any]] = {
    "encoder": {"depth": 4, "drop_path": 0.0},
    "data": {"batch_size": 64},
    "optim": {"lr": 1e-3},
    "run": {"knn": False, "log_every": 10},
}


def pretrain(chosen: argparse.Namespace) -> Path:
    """Relations and places, no position told."""
    more = {
        "data": {"root": chosen.root, "workers": max(0, chosen.threads - 1)},
        "optim": {"warmup_epochs": 0.2},
        "run": {"epochs": 2, "minutes": chosen.pretrain},
    }
    end(begin("relvit_cifar10", chosen.out / "relvit", chosen.threads, SMALL, more))
    return Path(chosen.out / "relvit")


def finetune(chosen: argparse.Namespace, pretrained: Path) -> dict[str, Path]:
    """From relations and from nothing, learned positions in both."""
    budget = {"epochs": chosen.epochs, "evaluate_every": chosen.epochs / 4}
    folders, runs = {}, []
    for name, weights in (("after relations", str(pretrained)), ("from scratch", None)):
        more = {
            "encoder": {"weights": weights},
            "data": {"root": chosen.root, "workers": 0},
            "optim": {"warmup_epochs": chosen.epochs / 10},
            "run": budget,
        }
        folders[name] = chosen.out / name.replace(" ", "_")
        runs.append(begin("relvit_finetune_cifar10", folders[name], max(1, chosen.threads // 2), SMALL, more))
    end(*runs)
    return folders


def main() -> None:
    """Train, print the curves, and append a record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a folder with train/ and test/, a folder for each class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretrain", type=float, default=10.0, help="minutes")
    parser.add_argument("--epochs", type=float, default=2.0, help="of fine-tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    pretrained = pretrain(chosen)
    learned = curve(pretrained, "relations", "place_accuracy", "relation_accuracy")
    print(f"relations right: {learned[0]['relation_accuracy']:.3f} at first, {learned[-1]['relation_accuracy']:.3f} at "
          f"last; the best constant has 0.191")  # fmt: skip
    curves = {name: curve(folder, "val_top1") for name, folder in finetune(chosen, pretrained).items()}
    side_by_side(curves, "val_top1")
    if chosen.record:
        about = {"pretrain": chosen.pretrain, "epochs": chosen.epochs, "threads": chosen.threads}
        found = {**about, "relations": learned[:: max(1, len(learned) // 12)] + learned[-1:], "curves": curves}
        record("relvit_cifar10.jsonl", "RelViT on CIFAR-10, then fine-tuning", found)


if __name__ == "__main__":
    main()
