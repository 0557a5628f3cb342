"""Whole runs of LaCViT: leftover micro-batches, what is said of isotropy, the frozen encoder, and the test split."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vitkiln.engine.data.balanced import order_of
from vitkiln.engine.data.source import open_source
from vitkiln.engine.errors import DataError, RecipeError
from vitkiln.engine.recipe import load
from vitkiln.engine.train import Trainer, run, train_step

TINY = [
    "encoder.image_size=32", "encoder.patch_size=8", "encoder.width=32", "encoder.depth=1", "encoder.heads=2",
    "data.source=folder", "data.batch_size=16", "data.workers=0",
    "run.steps=3", "run.log_every=1", "run.precision=fp32", "run.device=cpu", "run.tensorboard=false",
]  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(folder, seed, each=7, classes=("a", "b", "c")):
    """Noise in each class of a folder."""
    noise = np.random.Generator(np.random.Philox(seed))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = noise.integers(0, 256, (36, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def root(tmp_path):
    pictures(tmp_path / "data" / "train", 1)
    pictures(tmp_path / "data" / "test", 2, each=4)
    return tmp_path / "data"


def recipe(root, name="lacvit", *overrides):
    parts = ["run.accumulate=2", "method.hidden=16", "method.output=8"] if name == "lacvit" else []
    return load(name, [*TINY, *parts, f"data.root={root}", *overrides], short=False)


def weights(folder):
    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "method.safetensors")


@pytest.mark.parametrize(
    ("name", "more"),
    [("lacvit", []), ("lacvit", ["data.classes_per_batch=2"]), ("lacvit_head", []), ("lacvit_cross_entropy", [])],
)
def test_no_image_of_the_test_split_is_learned_from(root, tmp_path, name, more):
    """Whatever lies in test/, or whether it is there at all, the weights come out alike, bit for bit."""
    run(recipe(root, name, *more), tmp_path / "with")
    shutil.rmtree(root / "test")
    pictures(root / "test", 3, each=9)
    run(recipe(root, name, *more), tmp_path / "other")
    shutil.rmtree(root / "test")
    run(recipe(root, name, *more), tmp_path / "without")
    first = weights(tmp_path / "with")
    for folder in ("other", "without"):
        assert all(torch.equal(value, first[key]) for key, value in weights(tmp_path / folder).items())


@pytest.mark.parametrize("classes", [None, 2])
def test_the_files_read_in_training_are_those_of_train(root, classes):
    source = open_source(recipe(root).data, 0)
    order = order_of(source, 16, classes, seed=0, accumulate=2, leftover=True)
    steps = range(5 * order.steps_per_epoch)
    seen = {int(i) % len(source) for step in steps for part in range(order.parts(step)) for i in order.ids(step, part)}
    assert all(source.name(index).startswith(str(root / "train")) for index in seen)
    assert seen == set(range(len(source)))


def test_a_set_smaller_than_a_step_still_takes_steps_by_what_there_is(root):
    """21 images, micro-batches of 8: two of the four that a step has."""
    small = recipe(root, "lacvit", "data.batch_size=32", "run.accumulate=4", "encoder.drop_path=0.0")
    trainer = Trainer(small, CPU)
    before = {name: p.detach().clone() for name, p in trainer.method.named_parameters()}
    loader = trainer.loader()
    batches = [batch for batch, _ in zip(loader, range(trainer.order.parts(0)), strict=False)]
    assert [len(batch.ids) for batch in batches] == [8, 8]
    losses = [trainer.method(batch).total for batch in batches]
    expected = torch.autograd.grad(sum(losses) / 2, trainer.method.projector[0].weight)[0]
    told = train_step(trainer, batches)
    torch.testing.assert_close(told.total, sum(losses) / 2)
    moved = trainer.method.projector[0].weight - before["projector.0.weight"]
    decayed = expected + 1e-4 * before["projector.0.weight"]
    torch.testing.assert_close(moved, -1e-3 * decayed, atol=1e-8, rtol=1e-3)
    loader.close()


def test_without_leftovers_such_a_set_is_refused(root):
    with pytest.raises(DataError, match=r"data.batch_size: 32 is more than the 21 images there are"):
        Trainer(recipe(root, "lacvit", "data.batch_size=32", "run.accumulate=4", "run.leftover=drop"), CPU)


def test_a_run_with_leftovers_goes_on_where_it_stopped(root, tmp_path):
    """21 images in micro-batches of 4, three to a step: every second step has two."""
    parts = ["data.batch_size=12", "run.accumulate=3", "run.steps=5", "run.checkpoint_every=3", "run.knn=false"]
    run(recipe(root, "lacvit", *parts), tmp_path / "run")
    whole = weights(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-0000005")
    (tmp_path / "run" / "status.json").write_text(json.dumps({"state": "failed"}))
    run(recipe(root, "lacvit", *parts), tmp_path / "run")
    assert all(torch.equal(value, whole[key]) for key, value in weights(tmp_path / "run").items())


def test_isotropy_before_and_after_lies_in_the_run_folder(root, tmp_path, caplog):
    caplog.set_level("INFO", logger="vitkiln")
    run(recipe(root), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "evaluation-isotropy.json").read_text())
    assert (told["features"], told["images"], told["split"]) == ("mean_norm", 12, "val")
    assert told["before"].keys() == told["after"].keys() == {"mean_cosine", "partition_ratio", "effective_rank"}
    assert told["before"] != told["after"]
    assert "isotropy of mean_norm before -> after: mean cosine" in caplog.text


def test_isotropy_before_is_that_of_the_weights_that_it_began_with(root, tmp_path):
    run(recipe(root), tmp_path / "first")
    begun = f"encoder.weights={tmp_path / 'first'}"
    run(recipe(root, "lacvit", begun, "optim.lr=0.3"), tmp_path / "second")
    first, second = (
        json.loads((tmp_path / name / "evaluation-isotropy.json").read_text()) for name in ("first", "second")
    )
    assert second["before"] == pytest.approx(first["after"], rel=1e-4)
    assert second["after"] != pytest.approx(first["after"], rel=1e-4)


def test_a_head_on_a_frozen_encoder_leaves_it_as_the_first_stage_did(root, tmp_path):
    run(recipe(root, "lacvit", "run.knn=false"), tmp_path / "first")
    run(recipe(root, "lacvit_head", f"encoder.weights={tmp_path / 'first'}"), tmp_path / "second")
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    theirs = {key: value for key, value in before.items() if key.startswith("encoder.")}
    assert len(theirs) > 10
    assert all(torch.equal(after[key], value) for key, value in theirs.items())
    assert set(after) - set(theirs) == {"head.weight", "head.bias"}
    assert json.loads((tmp_path / "second" / "evaluation-top1.json").read_text())["images"] == 12


def test_unlabelled_images_are_refused(tmp_path):
    pictures(tmp_path / "flat", 1, classes=("x",))
    for file in (tmp_path / "flat" / "x").iterdir():
        file.rename(tmp_path / "flat" / file.name)
    (tmp_path / "flat" / "x").rmdir()
    with pytest.raises(RecipeError, match=r"method.loss=sup_con needs labels"):
        Trainer(recipe(tmp_path / "flat", "lacvit", "data.batch_size=4"), CPU)


def test_more_classes_than_there_are_are_refused(root):
    with pytest.raises(DataError, match=r"data.classes_per_batch: 4; the data have 3 classes"):
        Trainer(recipe(root, "lacvit", "data.classes_per_batch=4"), CPU)


def test_n_pair_trains_on_balanced_batches(root, tmp_path):
    pair = ["method.loss=n_pair", "data.classes_per_batch=3", "data.batch_size=12", "optim.name=adamw"]
    run(recipe(root, "lacvit", *pair, "run.knn=false"), tmp_path / "run")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(first) >= {"n_pair", "agreement"}
