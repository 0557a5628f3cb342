"""Folders are understood as people lay them out, listed once, and refused in words where they cannot be used."""

import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vitkiln.engine.data import index
from vitkiln.engine.data.check import check_folder
from vitkiln.engine.data.folder import FolderSource
from vitkiln.engine.data.index import open_index
from vitkiln.engine.data.source import kind_of, open_source
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings import Data

Write = Callable[..., Path]


def opened(root: Path, split: str = "train", val: Path | None = None) -> FolderSource:
    source = open_source(Data(root=str(root), val=str(val) if val else None), 0, split)  # type: ignore[arg-type]
    assert isinstance(source, FolderSource)
    return source


def names(source: FolderSource) -> list[str]:
    return [os.path.relpath(source.name(i), source.index.root) for i in range(len(source))]


def settle(root: Path) -> None:
    """As if nothing had been written for an hour: only then is a list trusted."""
    for folder in [root, *root.rglob("*")]:
        if folder.is_dir():
            os.utime(folder, (time.time() - 3600,) * 2)


def test_first_level_folders_are_the_classes_at_any_depth(pictures: Write) -> None:
    root = pictures(("b/deep/er", "a", "c"), each=2)
    source = opened(root)
    assert source.classes == ("a", "b", "c")
    assert names(source) == [
        "a/000.jpg",
        "a/001.jpg",
        "b/deep/er/000.jpg",
        "b/deep/er/001.jpg",
        "c/000.jpg",
        "c/001.jpg",
    ]
    assert [source.label(i) for i in range(6)] == [0, 0, 1, 1, 2, 2]


def test_images_in_the_root_have_no_classes(pictures: Write) -> None:
    source = opened(pictures(("", "below"), each=2))
    assert source.classes is None
    assert [source.label(i) for i in range(4)] == [-1] * 4


def test_an_empty_folder_is_no_class(pictures: Write) -> None:
    root = pictures(("a", "c"), each=1)
    (root / "b").mkdir()
    assert opened(root).classes == ("a", "c")


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_splits_beside_each_other_are_found(pictures: Write, name: str) -> None:
    root = pictures((f"{name}/a", f"{name}/b"), each=1)
    pictures(("train/a", "train/b"), each=3)
    assert len(opened(root)) == 6
    assert len(opened(root, "val")) == 2


def test_a_root_without_train_has_no_other_split(pictures: Write) -> None:
    assert open_source(Data(root=str(pictures(("val", "b")))), 0, "val") is None


def test_val_is_used_before_what_lies_beside_train(pictures: Write) -> None:
    root = pictures(("train/a", "val/a"), each=3)
    assert len(opened(root, "val", pictures(("a",), each=1, root="other"))) == 1


def test_labels_of_val_are_numbers_of_the_training_classes(pictures: Write) -> None:
    root = pictures(("train/a", "train/b", "train/c", "val/c", "val/b"), each=1)
    source = opened(root, "val")
    assert source.classes == ("a", "b", "c")
    assert [source.label(i) for i in range(2)] == [1, 2]


def test_a_class_that_training_does_not_know_is_refused(pictures: Write) -> None:
    root = pictures(("train/apple", "train/pear", "val/aple"), each=1)
    with pytest.raises(DataError, match=r"class 'aple' .* 2 classes .*did you mean 'apple'"):
        opened(root, "val")


def test_hidden_and_other_files_are_left_out(pictures: Write) -> None:
    root = pictures(("a", ".thumbs"), each=1)
    (root / "a" / ".hidden.jpg").write_bytes(b"")
    (root / "a" / "notes.txt").write_text("")
    (root / "a" / "UPPER.JPG").write_bytes(b"")
    assert names(opened(root)) == ["a/000.jpg", "a/UPPER.JPG"]


def test_links_are_followed_and_loops_are_not(pictures: Write) -> None:
    root, other = pictures(("a",), each=1), pictures(("x",), each=2, root="other")
    (root / "b").symlink_to(other)
    (root / "a" / "up").symlink_to(root)
    (other / "x" / "self").symlink_to(other / "x")
    assert names(opened(root)) == ["a/000.jpg", "b/x/000.jpg", "b/x/001.jpg"]


@pytest.mark.parametrize("target", ["loop.jpg", "x" * 300, "000.jpg/beyond"])
def test_a_link_that_leads_nowhere_costs_no_other_image(pictures: Write, target: str) -> None:
    root = pictures()
    (root / "a" / "loop.jpg").symlink_to(target)
    index = open_index(str(root))
    assert len(index) == 21
    assert index.path(10) == str(root / "a" / "loop.jpg")  # listed, so that it is told when it is read


def test_names_that_are_not_text_are_read(pictures: Write) -> None:
    root = pictures(("a",), each=1)
    os.rename(root / "a" / "000.jpg", os.fsencode(root / "a") + b"/\xff\n0.jpg")  # noqa: PTH104
    assert opened(root).image(0).mode == "RGB"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"data.root: '.*images' does not exist; must be the folder of the images"),
        (lambda root: root.mkdir(), r"data.root: no image in '.*images' or below it; must hold files named \.jpg"),
        (lambda root: root.write_text(""), r"data.root: '.*images' is a file"),
        (lambda root: (root.parent / "imagse").mkdir(), "did you mean 'imagse'"),
    ],
)
def test_an_unusable_root_is_told(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "images")


@pytest.mark.parametrize("place", ["~nobody-of-this-name/images", "n" * 300, "images/" + "n" * 300])
@pytest.mark.parametrize("source", ["folder", "shards"])
def test_a_root_that_cannot_be_looked_for_is_told(place: str, source: str) -> None:
    with pytest.raises(DataError, match=rf"^data\.root: '{place}'.*; must be the folder of the "):
        open_source(Data(root=place, source=source), 0)
    with pytest.raises(DataError, match=rf"^data\.root: '{place}'"):
        check_folder(place, 0)


def test_a_root_that_may_not_be_listed_is_told(pictures: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(DataError, match=r"data\.root: '.*images' may not be read; must be the folder of the images"):
        opened(root)


def test_a_folder_that_vanishes_as_it_is_listed_holds_no_image(tmp_path: Path) -> None:
    assert len(open_index(str(tmp_path / "gone"))) == 0


def test_a_missing_root_and_a_missing_val_are_told(pictures: Write) -> None:
    with pytest.raises(DataError, match=r"data\.root: null"):
        open_source(Data(), 0)
    with pytest.raises(DataError, match=r"data\.val: '.*nowhere' does not exist"):
        opened(pictures(), "val", Path("/nowhere"))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    walk = index.walk

    def noted(root: str) -> object:
        seen.append(root)
        return walk(root)

    monkeypatch.setattr(index, "walk", noted)
    return seen


def test_an_unchanged_folder_is_not_listed_again(pictures: Write, walks: list[str]) -> None:
    root = pictures()
    settle(root)
    first, second = opened(root), opened(root)
    assert len(walks) == 1
    assert names(first) == names(second)
    assert (first.classes, first.labels.tolist()) == (second.classes, second.labels.tolist())


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a" / "000.jpg").unlink(),
        lambda root: (root / "b" / "000.jpg").rename(root / "b" / "zzz.jpg"),
        lambda root: ((root / "c").mkdir(), (root / "a" / "000.jpg").rename(root / "c" / "000.jpg")),
        lambda root: (root / "b").rename(root.parent / "gone"),
    ],
)
def test_a_changed_folder_is_listed_again(pictures: Write, change: Callable[[Path], object]) -> None:
    root = pictures(each=3)
    settle(root)
    opened(root)
    change(root)
    assert names(opened(root)) == sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))


def test_a_folder_changed_just_now_is_not_trusted(pictures: Write, cache: Path) -> None:
    opened(pictures())
    assert not cache.exists()


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: b"", lambda text: b"PK" + text])
def test_a_damaged_list_is_made_again(pictures: Write, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    root = pictures()
    settle(root)
    before = names(opened(root))
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert names(opened(root)) == before


def test_a_cache_that_cannot_be_written_is_done_without(pictures: Write, tmp_path: Path) -> None:
    root = pictures()
    settle(root)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(opened(root)) == 20


def test_an_index_holds_no_object_for_each_file(pictures: Write) -> None:
    root = pictures(("a", "b"), each=40)
    text = pickle.dumps(opened(root))
    assert len(text) < 80 * (len("a/000.jpg") + 8 + 4) + 1500
    assert names(pickle.loads(text)) == names(opened(root))


def test_a_hundred_thousand_files_are_opened_from_the_list_at_once(tmp_path: Path) -> None:
    root = tmp_path / "many"
    for folder in range(10):
        (root / str(folder)).mkdir(parents=True)
    states = [index.Folder(b"", state(root), ())]
    files = tuple(b"%06d.jpg" % number for number in range(10_000))
    states += [index.Folder(b"%d" % n, state(root / str(n)), files) for n in range(10)]
    index.save(index.build(str(root), states), states, index.cache_file(str(root)))
    started = time.perf_counter()
    assert len(open_index(str(root))) == 100_000
    assert time.perf_counter() - started < 1.0  # a tenth of the time for a tenth of a million


def state(folder: Path) -> tuple[int, int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def test_a_folder_of_shards_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "shard-000000.tar").write_bytes(b"")
    assert kind_of(tmp_path) == "shards"
    with pytest.raises(DataError, match=r"data\.root: no image .* say data\.source=shards"):
        open_source(Data(root=str(tmp_path)), 0)
