"""What `check-data` finds in a folder of images or of shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vitkiln.engine import cli
from vitkiln.engine.data.check import check_folder
from vitkiln.engine.errors import DataError

from .conftest import picture
from .tars import jpeg, samples, write


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_is_counted_measured_and_its_broken_files_named(pictures: Callable[..., Path], workers: int) -> None:
    root = pictures(each=20)
    picture(0, 100, 10).convert("L").save(root / "a" / "grey.png")
    (root / "b" / "003.jpg").write_text("nothing")
    (report,) = check_folder(root, workers)
    assert (report.images, report.readable, report.classes) == (41, 40, ("a", "b"))
    assert report.widths == (48, 48, 100)
    assert report.heights == (10, 36, 36)
    assert report.modes == {"RGB": 39, "L": 1}
    assert report.bad == ((str(root / "b" / "003.jpg"), "not an image that Pillow can read"),)
    assert report.file_bytes == sum(path.stat().st_size for path in root.rglob("*.*"))
    assert report.megabytes_per_second > 0


def test_both_splits_are_read(pictures: Callable[..., Path]) -> None:
    reports = check_folder(pictures(("train/a", "val/a"), each=2), 0)
    assert [Path(report.root).name for report in reports] == ["train", "val"]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check_folder(tmp_path / "none", 0)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two splits; in one a page in place of an image, and a shard cut short."""
    write(tmp_path / "s" / "train" / "0.tar", [*samples(5), ("x.jpg", b"<html>"), ("x.cls", b"0")])
    cut = write(tmp_path / "s" / "train" / "1.tar", samples(3))
    cut.write_bytes(cut.read_bytes()[:4000])
    write(tmp_path / "s" / "val" / "0.tar", samples(2))
    return tmp_path / "s"


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_read_and_the_broken_ones_named(shards: Path, workers: int) -> None:
    train, val = check_folder(shards, workers)
    assert (train.root, val.root) == (f"{shards}/train", f"{shards}/val")
    assert (train.classes, val.images, val.bad) == (("0", "1", "2"), 2, ())
    assert train.images - train.readable == 1
    (first, reason), *others = train.bad
    assert (first, reason[:20]) == (f"{shards}/train/1.tar", "cut short: at least ")
    assert others == [(f"{shards}/train/0.tar:x.jpg", "not an image that Pillow can read")]
    assert val.file_bytes == len(jpeg(0)) + len(jpeg(1))


def test_broken_shards_are_an_error_of_the_data(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["check-data", str(shards)]) == 3
    out, err = capsys.readouterr()
    images = sum(report.images for report in check_folder(shards, 0))
    assert err.endswith(f"\n{shards}: 1 of {images} images cannot be used; broken shards: 1\n")
    assert "1.tar: cut short" in out
