"""What `check-data` finds in a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vitkiln.engine.data.check import check_folder
from vitkiln.engine.errors import DataError

from .conftest import picture


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
