"""Images in tar shards are those of the files they were made of: any of them, in any process, with its label."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitkiln.engine.data import shards
from vitkiln.engine.data.fractal import Fractals
from vitkiln.engine.data.fractal_build import Build
from vitkiln.engine.data.fractal_build import write as write_fractals
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.order import Order
from vitkiln.engine.data.shards import ShardSource, open_shards
from vitkiln.engine.data.source import BadImage, Files, Split
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings.formulas import Formulas
from vitkiln.engine.vocabulary import View

from .conftest import picture
from .tars import jpeg, samples, write

TINY = Formulas(categories=5, instances=4, fractal_size=32, fractal_points=500)


def opened(root: Path, split: Split = "train", val: Path | None = None) -> ShardSource:
    source = open_shards(str(root), str(val) if val else None, split)
    assert source is not None
    return source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards of 8, 8 and 5 images in three classes."""
    for number, count in enumerate((8, 8, 5)):
        write(tmp_path / "s" / f"{number}.tar", samples(count, 8 * number))
    return tmp_path / "s"


# reading


def test_images_labels_and_names_are_those_written(root: Path) -> None:
    source = opened(root)
    assert isinstance(source, Files)
    assert (len(source), source.classes, source.problems) == (21, ("0", "1", "2"), ())
    for index in range(21):
        assert source.read(index) == jpeg(index)
        assert source.label(index) == index % 3
        assert source.name(index) == f"{root}/{index // 8}.tar:{index:04d}.jpg"
    assert np.abs(np.asarray(source.image(9)).astype(int) - np.asarray(picture(9))).mean() < 3


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The arguments of os.pread, and how often a file is opened and closed."""
    found: dict[str, list[int]] = {"pread": [], "open": [], "close": []}

    def noted(name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def call(*arguments: Any) -> Any:
            found[name].append(arguments[1] if name == "pread" else 1)
            return function(*arguments)

        return call

    for name in found:
        monkeypatch.setattr(os, name, noted(name))
    return found


def test_an_image_is_one_read_of_its_own_bytes(root: Path, calls: dict[str, list[int]]) -> None:
    source = opened(root)
    calls["pread"].clear()
    calls["open"].clear()
    order = [20, 3, 11, 4, 20]
    found = [source.read(index) for index in order]
    assert calls["pread"] == [len(data) for data in found]
    assert len(calls["open"]) == 3


def test_no_more_than_so_many_shards_stay_open(
    root: Path, calls: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "OPEN", 2)
    source = opened(root)
    calls["open"].clear()
    calls["close"].clear()
    for index in [0, 8, 16] * 3:
        assert source.read(index) == jpeg(index)
        assert len(calls["open"]) - len(calls["close"]) <= 2
    source.open()
    assert len(calls["open"]) == len(calls["close"]) == 9


def test_a_shard_that_another_thread_lets_go_of_is_read_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(root)
    read = os.pread

    def late(file: int, size: int, offset: int) -> bytes:
        source.shard.cache_clear()  # what many shards read by others come to
        return read(file, size, offset)

    monkeypatch.setattr(os, "pread", late)
    assert source.read(3) == jpeg(3)


def test_a_source_holds_no_object_for_each_image(tmp_path: Path) -> None:
    write(tmp_path / "s" / "0.tar", samples(300))
    source = opened(tmp_path / "s")
    text = pickle.dumps(source)
    assert len(text) < 300 * (len("0000.jpg") + 5 * 8) + 2000
    assert pickle.loads(text).read(123) == source.read(123)


def test_a_child_process_opens_its_own_shards(root: Path, calls: dict[str, list[int]]) -> None:
    source = opened(root)
    source.read(0)

    def child() -> None:
        calls["open"].clear()
        right = source.read(0) == source.read(0) == jpeg(0)
        os._exit(len(calls["open"]) if right else 99)

    process = get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 1
    assert source.read(1) == jpeg(1)


# broken


def test_a_cut_shard_is_used_as_far_as_it_goes_and_told(root: Path) -> None:
    file = root / "1.tar"
    file.write_bytes(file.read_bytes()[:9000])
    source = opened(root)
    whole = [int(source.name(index)[-8:-4]) for index in range(len(source))]
    assert 13 < len(source) < 21
    assert all(source.read(index) == jpeg(number) for index, number in enumerate(whole))
    ((path, reason),) = source.problems
    assert path == str(file)
    assert reason.startswith("cut short: at least ")


def reader(source: ShardSource, **how: Any) -> Loader:
    chosen = {"batch_size": 7, "seed": 0, "workers": 0, "device": torch.device("cpu"), "max_bad": 0.5, **how}
    return Loader(source, (View(size=16),), **chosen)


def test_a_run_tells_of_a_cut_shard_once_and_goes_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "2.tar").write_bytes((root / "2.tar").read_bytes()[:4000])
    with caplog.at_level(logging.WARNING, "vitkiln"):
        reading = reader(opened(root), max_bad=0.0)
        list(islice(reading, 5))
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [str(root / "2.tar")]
    assert list(reading.bad) == [str(root / "2.tar")]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm", ["gone", "shorter", "other"])
def test_a_shard_lost_while_training_costs_its_images_alone(root: Path, workers: int, harm: str) -> None:
    source = opened(root)
    file = root / "2.tar"
    if harm == "gone":
        file.unlink()
    elif harm == "shorter":
        os.truncate(file, 100)
    else:
        write(file, samples(2))
    reading = reader(source, workers=workers)
    list(islice(reading, 6))
    reading.close()
    assert sorted(reading.bad) == [source.name(index) for index in range(16, 21)]
    told = {"gone": "No such file or directory", "shorter": "the shard has 100 bytes, and had "}.get(
        harm, "the shard has"
    )
    assert all(reason.startswith(told) for reason in reading.bad.values())


def test_a_shard_that_shrinks_while_it_is_open_is_told(root: Path) -> None:
    source = opened(root)
    source.read(0)
    os.truncate(root / "0.tar", 1000)
    with pytest.raises(BadImage, match=r"\d+ bytes are missing: the shard was cut short") as told:
        source.read(1)
    assert told.value.path == source.name(1)


def test_an_image_that_is_none_is_told_by_its_place(tmp_path: Path) -> None:
    write(tmp_path / "s" / "0.tar", [("a/b.jpg", b"<html>"), ("c.jpg", b"")])
    source = opened(tmp_path / "s")
    for index, name in enumerate(("a/b.jpg", "c.jpg")):
        with pytest.raises(BadImage) as told:
            source.image(index)
        assert told.value.path == f"{tmp_path}/s/0.tar:{name}"


# labels


def manifest(folder: Path, **told: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(told))


def test_classes_are_the_numbers_there_are(tmp_path: Path) -> None:
    inside = [pair for n in (7, 100, 7, 3) for pair in ((f"{n}.jpg", jpeg(n)), (f"{n}.json", b'{"label": %d}' % n))]
    write(tmp_path / "s" / "0.tar", inside)
    source = opened(tmp_path / "s")
    assert source.classes == ("003", "007", "100")
    assert [source.label(index) for index in range(4)] == [1, 2, 1, 0]


def test_a_manifest_names_the_classes(root: Path) -> None:
    manifest(root, classes=["cat", "dog", "eel", "fox"])
    assert opened(root).classes == ("cat", "dog", "eel", "fox")
    assert opened(root).label(5) == 2


@pytest.mark.parametrize("text", ["{", '{"classes": ["cat", "dog"]}', "\udcff"])
def test_a_manifest_that_does_not_fit_is_told(root: Path, text: str) -> None:
    (root / "manifest.json").write_bytes(os.fsencode(text))
    with pytest.raises(
        DataError, match=r"manifest\.json.*must be JSON|label 2 of an image; manifest\.json has 2 classes"
    ):
        opened(root)


@pytest.mark.parametrize("text", ["[1]", "{}", '{"classes": 3}', '{"classes": null}', '{"classes": [1, 2]}'])
def test_a_manifest_of_something_else_names_nothing(root: Path, text: str) -> None:
    (root / "manifest.json").write_text(text)
    assert opened(root).classes == ("0", "1", "2")


def test_without_labels_there_are_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "s" / "0.tar", [("a.jpg", jpeg(0)), ("b.jpg", jpeg(1))])
    source = opened(tmp_path / "s")
    assert (source.classes, source.label(1)) == (None, -1)
    assert not caplog.records


def test_one_image_without_a_label_leaves_all_without_and_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root / "3.tar", [("last.jpg", jpeg(0)), ("last.cls", b"dog")])
    with caplog.at_level(logging.WARNING, "vitkiln"):
        source = opened(root)
    assert (source.classes, source.label(0)) == (None, -1)
    (record,) = caplog.records
    assert "no label for 1 of 22 images, the first of them " in record.getMessage()
    assert "3.tar:last.jpg" in record.getMessage()


# splits


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_splits_beside_each_other_are_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "s" / "train" / "0.tar", samples(6))
    write(tmp_path / "s" / name / "0.tar", samples(2))
    assert len(opened(tmp_path / "s")) == 6
    assert len(opened(tmp_path / "s", "val")) == 2


def test_splits_in_one_folder_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for name, count in (("x-train-00.tar", 6), ("x-train-01.tar", 6), ("x-validation-00.tar", 3), ("x-test-0.tar", 9)):
        write(tmp_path / "s" / name, samples(count))
    assert len(opened(tmp_path / "s")) == 12
    assert len(opened(tmp_path / "s", "val")) == 3


def test_shards_of_one_kind_are_all_for_training(root: Path) -> None:
    write(root / "train-0.tar", samples(4))
    assert len(opened(root)) == 25
    assert open_shards(str(root), None, "val") is None


def test_val_is_used_before_what_lies_beside_train(tmp_path: Path, root: Path) -> None:
    write(tmp_path / "two" / "train" / "0.tar", samples(6))
    write(tmp_path / "two" / "val" / "0.tar", samples(2))
    assert len(opened(tmp_path / "two", "val", root)) == 21


def test_labels_of_val_are_numbers_of_the_training_classes(tmp_path: Path) -> None:
    numbers = {"train": (2, 5, 40), "val": (40, 2)}
    for split, labels in numbers.items():
        inside = [pair for n in labels for pair in ((f"{n}.jpg", jpeg(n)), (f"{n}.cls", b"%d" % n))]
        write(tmp_path / "s" / split / "0.tar", inside)
    source = opened(tmp_path / "s", "val")
    assert source.classes == ("02", "05", "40")
    assert [source.label(index) for index in range(2)] == [2, 0]


def test_two_manifests_are_compared_by_name(tmp_path: Path) -> None:
    for split, names in (("train", ["ape", "bat", "cat"]), ("val", ["cat", "ape"])):
        write(tmp_path / "s" / split / "0.tar", samples(2, classes=2))
        manifest(tmp_path / "s" / split, classes=names)
    source = opened(tmp_path / "s", "val")
    assert [source.label(index) for index in range(2)] == [2, 0]


@pytest.mark.parametrize("named", [False, True])
def test_a_class_that_training_does_not_know_is_refused(tmp_path: Path, named: bool) -> None:
    for split, classes in (("train", 2), ("val", 3)):
        write(tmp_path / "s" / split / "0.tar", samples(3, classes=classes))
        if named:
            manifest(tmp_path / "s" / split, classes=["ape", "bat", "cat"][:classes])
    unknown = "cat" if named else "2"
    with pytest.raises(DataError, match=f"val: class '{unknown}' is not among the 2 classes of the training images"):
        opened(tmp_path / "s", "val")


# refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"data\.root: '.*set' does not exist; must be the folder of the shards"),
        (lambda root: root.write_text(""), r"data\.root: '.*set' is a file"),
        (lambda root: root.mkdir(), r"data\.root: no shard \*\.tar in '.*set'; `engine shards build` makes"),
        (
            lambda root: write(root / "0.tar", [("a.txt", b"")]),
            r"data\.root: no image in the 1 shards of '.*set'; `eng",
        ),
        (
            lambda root: (root.mkdir(), (root / "0.tar").touch()),
            r"no image in the 1 shards .*0\.tar: the file is empty",
        ),
        (
            lambda root: ((root / "cats").mkdir(parents=True), picture(0).save(root / "cats" / "0.png")),
            r"data\.root: no shard \*\.tar in '.*set'; it holds images as files: say data\.source=folder",
        ),
    ],
)
def test_an_unusable_root_is_told(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "set")
    with pytest.raises(DataError, match=message) as told:
        opened(tmp_path / "set")
    assert told.value.code == 3
    assert "\n" not in str(told.value)


def test_a_missing_root_and_a_missing_val_are_told(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root: null; must be the folder of the shards"):
        open_shards(None, None, "train")
    with pytest.raises(DataError, match=r"data\.val: '.*nowhere' does not exist"):
        opened(root, "val", Path("/nowhere"))


# as others write them


def test_shards_of_the_webdataset_package_are_read(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    (tmp_path / "s").mkdir()
    with wds.ShardWriter(f"{tmp_path}/s/part-%03d.tar", maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write({"__key__": f"k/{number}", "jpg": jpeg(number), "cls": number % 3, "json": {"label": 9}})
    source = opened(tmp_path / "s")
    assert (len(source), source.classes) == (10, ("0", "1", "2"))
    assert [source.label(index) for index in range(10)] == [number % 3 for number in range(10)]
    assert [source.read(index) for index in range(10)] == [jpeg(number) for number in range(10)]


def test_shards_of_fractals_are_read(tmp_path: Path) -> None:
    write_fractals(Build(tmp_path / "s", TINY, 0, True), 1, lambda count: None)
    source, drawn = opened(tmp_path / "s"), Fractals(TINY, 0)
    assert (len(source), len(source.classes or ())) == (20, 5)
    for index in range(20):
        category, instance = map(int, source.name(index).rpartition(":")[2][:-4].split("_"))
        assert source.label(index) == category
        assert (np.asarray(source.image(index)) == np.asarray(drawn.image(category * 4 + instance))).all()


# in a run


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=7), world=st.integers(1, 4), part=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_every_rank_takes_as_many_steps_however_many_shards(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], world: int, part: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "drawn_shards"
    shutil.rmtree(folder, ignore_errors=True)
    for number, count in enumerate(counts):
        write(folder / f"{number}.tar", [(f"{number}-{n}.jpg", b"") for n in range(count)])
    source, batch = opened(folder), world * part
    if len(source) < batch:
        return
    orders = [Order(len(source), batch, seed=0, rank=rank, world=world) for rank in range(world)]
    assert {order.steps_per_epoch for order in orders} == {sum(counts) // batch}
    seen = [order.ids(step, 0) for order in orders for step in range(order.steps_per_epoch)]
    assert {len(ids) for ids in seen} == {part}
    assert len(np.unique(np.concatenate(seen))) == sum(counts) // batch * batch


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_resumed_within_an_epoch_by_other_workers_sees_the_same(root: Path, workers: int) -> None:
    through = list(islice(reader(opened(root)), 8))  # three steps an epoch
    resumed = reader(opened(root), workers=workers, step=4)
    for one, other in zip(through[4:], islice(resumed, 4), strict=True):
        assert torch.equal(one.views[0], other.views[0])
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.labels, other.labels)
    resumed.close()
