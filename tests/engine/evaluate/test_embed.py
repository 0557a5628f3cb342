"""Features, labels and paths in a file."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vitkiln.engine.data.folder import open_folder
from vitkiln.engine.errors import DataError, RecipeError
from vitkiln.engine.evaluate import embed as module
from vitkiln.engine.evaluate.embed import embed
from vitkiln.engine.evaluate.features import tokens
from vitkiln.engine.evaluate.images import Still
from vitkiln.engine.evaluate.subject import Options, open_method

QUIET = Options(workers=0, device="cpu")


def test_the_file_holds_features_labels_and_paths_of_every_image(checkpoint, photos, tmp_path):
    found = load_file(embed(checkpoint, photos, tmp_path / "all.safetensors", QUIET))
    source = open_folder(str(photos), None, "train")
    paths = [os.fsdecode(path) for path in bytes(found["paths"].tolist()).split(b"\0")[:-1]]
    assert paths == [source.name(number) for number in range(60)]
    assert found["labels"].tolist() == [source.label(number) for number in range(60)]
    pixels = torch.tensor(Still(32)(source.image(7), 7))[None]
    expected = tokens(open_method(checkpoint).method.backbone().eval(), pixels, ("class",))["class"][0]
    torch.testing.assert_close(found["features"][7], expected, rtol=1e-4, atol=1e-5)


def test_both_formats_hold_the_same(checkpoint, photos, tmp_path):
    one = load_file(embed(checkpoint, photos, tmp_path / "a.safetensors", QUIET, split="val"))
    table = np.load(embed(checkpoint, photos, tmp_path / "a.npy", QUIET, split="val"))
    assert np.array_equal(table["features"], one["features"].numpy())
    assert np.array_equal(table["label"], one["labels"].numpy())
    assert b"".join(os.fsencode(path) + b"\0" for path in table["path"].tolist()) == bytes(one["paths"].tolist())


def test_the_metadata_say_what_it_is_of(checkpoint, photos, tmp_path):
    options = Options(workers=0, device="cpu", features="last-2", half=True)
    path = embed(checkpoint, photos, tmp_path / "deep" / "features", options, split="val")
    assert path == tmp_path / "deep" / "features.safetensors"
    with safe_open(path, "pt") as file:
        about, features = file.metadata(), file.get_tensor("features")
    assert (about["features"], about["split"], about["step"], about["method"]) == ("last-2", "val", "1", "mocov3")
    assert json.loads(about["classes"]) == ["blue", "green", "red"]
    assert (features.dtype, features.shape) == (torch.float16, (21, 64))


def test_images_without_labels_have_minus_one(checkpoint, photos, tmp_path):
    found = load_file(embed(checkpoint, photos / "val" / "red", tmp_path / "a.safetensors", QUIET))
    assert found["labels"].tolist() == [-1] * 7


def test_what_fails_leaves_neither_a_file_nor_a_draft(checkpoint, photos, tmp_path, monkeypatch):
    (tmp_path / "a.npy").write_text("precious")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(OSError, match="no space"):
        embed(checkpoint, photos, tmp_path / "a.npy", QUIET)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    assert (tmp_path / "a.npy").read_text() == "precious"


@pytest.mark.parametrize(
    ("more", "text"),
    [({"format": "csv"}, "--format csv: must be one of"), ({"split": "test"}, "--split test: must be one of")],
)
def test_other_formats_and_splits_are_refused(checkpoint, photos, tmp_path, more, text):
    with pytest.raises(RecipeError, match=text):
        embed(checkpoint, photos, tmp_path / "a", QUIET, **more)


def test_a_split_that_is_not_there_is_refused(checkpoint, photos, tmp_path):
    with pytest.raises(DataError, match=r"--split val: no second split in .*train"):
        embed(checkpoint, photos / "train", tmp_path / "a", QUIET, split="val")
