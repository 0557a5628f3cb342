"""Whole runs on files, in a folder and in shards: the same weights, and a list of what could not be read."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.recipe import load
from vitkiln.engine.train import run

TINY = {
    "method": {"name": "mocov3", "hidden": 32, "output": 16},
    "encoder": {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2},
    "data": {"batch_size": 8, "workers": 0},
    "optim": {"warmup_epochs": 1.0},
    "run": {
        "epochs": 10.0, "steps": 10, "precision": "fp32", "log_every": 5, "device": "cpu", "knn": False,
        "tensorboard": False,
    },
}  # fmt: skip


def files() -> dict[str, bytes]:
    """Forty pictures of two classes, of which the third is cut short."""
    random, found = np.random.default_rng(0), {}
    for number in range(40):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(file, "JPEG")
        found[f"{number % 2}/{number:03d}.jpg"] = file.getvalue()[: 500 if number == 2 else None]
    return found


def folder(root: Path) -> Path:
    for name, data in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def shards(root: Path) -> Path:
    """The same in the order of a folder's list."""
    root.mkdir(parents=True)
    with tarfile.open(root / "all.tar", "w") as archive:
        for name, data in sorted(files().items()):
            for suffix, inside in ((".jpg", data), (".cls", name[:1].encode())):
                entry = tarfile.TarInfo(name.replace("/", "_").removesuffix(".jpg") + suffix)
                entry.size = len(inside)
                archive.addfile(entry, io.BytesIO(inside))
    return root


def trained(place: Path, *overrides: str) -> Path:
    file = place / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return run(load(file, overrides), place / "run")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_listed_once_in_the_run_folder(tmp_path: Path, workers: int) -> None:
    done = trained(tmp_path, f"data.root={folder(tmp_path / 'images')}", f"data.workers={workers}")
    path, reason = (done / "bad_files.txt").read_text().rstrip("\n").split("\t")
    assert path == str(tmp_path / "images" / "0" / "002.jpg")
    assert "truncated" in reason.lower()


def test_what_cannot_be_read_is_told_once_however_many_checkpoints_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shards(tmp_path / "shards")
    (root / "broken.tar").write_bytes(b"no archive")
    trained(tmp_path, f"data.root={root}", "data.source=shards", "run.checkpoint_every=2", "data.val=null")
    for name in ("broken.tar: ", "all.tar:0_002.jpg: "):
        assert sum(name in record.getMessage() for record in caplog.records) == 1


def test_shards_train_the_weights_that_files_train(tmp_path: Path) -> None:
    places = {"folder": folder(tmp_path / "images"), "shards": shards(tmp_path / "shards")}
    ended = {}
    for kind, root in places.items():
        (tmp_path / f"run-{kind}").mkdir()
        ended[kind] = trained(tmp_path / f"run-{kind}", f"data.root={root}", f"data.source={kind}")
    weights = [load_file(next(place.glob("checkpoints/step-*")) / "method.safetensors") for place in ended.values()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "all.tar:0_002.jpg\t" in (ended["shards"] / "bad_files.txt").read_text()


def test_the_loader_that_was_chosen_stays_with_the_run(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    done = trained(tmp_path, f"data.root={root}")
    assert yaml.safe_load((done / "recipe.yaml").read_text())["data"]["loader"] == "pillow"
    written = (done / "recipe.yaml").read_text().replace("loader: pillow", "loader: torchvision")
    (done / "recipe.yaml").write_text(written)
    with pytest.raises(RecipeError, match=r"data\.loader"):
        trained(tmp_path, f"data.root={root}")
