"""Files as they are found in the wild: odd ones are used, broken ones replaced and told, and nothing crashes."""

import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.crops import Cutter, Task
from vitkiln.engine.data.decode import content
from vitkiln.engine.data.decode import picture as decoded
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.source import BadImage, open_source
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View

from .conftest import picture

Write = Callable[..., Path]
VIEWS = (View(size=16),)


def decode(path: str) -> Image.Image:
    return decoded(content(path), path)


def grey_png(path: Path, width: int, height: int) -> None:
    """A PNG that claims any size in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def half(path: Path) -> None:
    picture(0, 200, 200).save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_png(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path, "png")
    path.write_bytes(path.read_bytes()[:6000])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated.jpg": (half, "truncated"),
    "truncated.png": (half_png, "truncated"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "empty"),
    "page.jpg": (lambda path: path.write_text("<html>not found</html>"), "not an image"),
    "program.jpg": (lambda path: picture(0).save(path, "eps"), "PostScript"),
    "folded.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40), "not an image"),
    "bomb.png": (lambda path: grey_png(path, 30_000, 30_000), "exceeds limit"),
    "pipe.jpg": (os.mkfifo, "not a file"),
    "endless.jpg": (lambda path: path.symlink_to("/dev/zero"), "not a file"),
    "circle.jpg": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "gone.jpg": (lambda path: path.symlink_to("/nowhere/gone.jpg"), "No such file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_with_its_reason(tmp_path: Path, name: str) -> None:
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(BadImage) as told:
        decode(str(tmp_path / name))
    assert told.value.path == str(tmp_path / name)
    assert reason in told.value.reason
    assert "\n" not in told.value.reason
    assert str(tmp_path) not in told.value.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "mine.png")
    (tmp_path / "mine.png").chmod(0)
    with pytest.raises(BadImage, match="Permission denied"):
        decode(str(tmp_path / "mine.png"))


def test_deep_grey_is_scaled_and_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128, 129, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(decode(str(tmp_path / "deep.png")))[0, :, 0].tolist() == [0, 1, 0, 1, 128, 255]


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_deep_grey_is_read_in_either_order_of_bytes(tmp_path: Path, order: str) -> None:
    Image.fromarray(np.array([[0, 25700, 65535]], order)).save(tmp_path / "deep.tif")
    assert np.asarray(decode(str(tmp_path / "deep.tif")))[0, :, 1].tolist() == [0, 100, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    whole = picture(0)
    odd = (
        Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else whole.convert(mode)
    )
    odd.save(tmp_path / f"odd.{suffix}")
    image = decode(str(tmp_path / f"odd.{suffix}"))
    assert (image.mode, image.size) == ("RGB", whole.size)
    expected = whole if mode in ("RGBA", "CMYK", "YCbCr") else whole.convert("1" if mode == "1" else "L").convert("RGB")
    if mode != "P":
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 8


def test_odd_files_make_no_noise(tmp_path: Path) -> None:
    picture(0).convert("P").save(tmp_path / "p.png", transparency=bytes([0, 255] * 100))
    grey_png(tmp_path / "large.png", 10_000, 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(str(tmp_path / "p.png"))
        with pytest.raises(BadImage):
            decode(str(tmp_path / "large.png"))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 1)])
def test_one_pixel_is_enough(tmp_path: Path, size: tuple[int, int]) -> None:
    picture(0, *size).save(tmp_path / "thin.png")
    source = open_source(Data(root=str(tmp_path)), 0)
    assert source is not None
    crops = Cutter(source, VIEWS, 0)(Task(0, np.array([0])))
    assert crops.complete
    assert crops.views[0].shape == (1, 16, 16, 3)


def spoilt(pictures: Write, count: int) -> Path:
    root = pictures(each=25)
    for number in range(count):
        make, _ = BROKEN[sorted(BROKEN)[number % len(BROKEN)]]
        path = root / "a" / f"{number:03d}.jpg"
        path.unlink()
        make(path)
    return root


def loader(root: Path, **settings: object) -> Loader:
    source = open_source(Data(root=str(root)), 0)
    assert source is not None
    chosen = {"batch_size": 10, "seed": 0, "workers": 0, "device": torch.device("cpu"), "max_bad": 0.5, **settings}
    return Loader(source, VIEWS, **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_told_once_and_kept(
    pictures: Write, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    root = spoilt(pictures, 7)
    reading = loader(root, workers=workers)
    with caplog.at_level(logging.WARNING, "vitkiln"):
        batches = list(islice(reading, 15))  # three epochs
    reading.close()
    assert sorted(reading.bad) == [str(root / "a" / f"{number:03d}.jpg") for number in range(7)]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 7
    assert all(
        path in message and reason in message for (path, reason), message in zip(reading.bad.items(), told, strict=True)
    )
    assert all(len(batch.ids.unique()) == 10 for batch in batches)


def test_replacements_are_the_same_for_any_workers_and_restart(pictures: Write) -> None:
    root = spoilt(pictures, 7)
    first, second = loader(root), loader(root, workers=2, step=4)
    through = list(islice(first, 8))[4:]
    for one, other in zip(through, islice(second, 4), strict=True):
        assert torch.equal(one.views[0], other.views[0])
        assert torch.equal(one.labels, other.labels)
    second.close()


def test_a_replaced_image_brings_its_own_label(pictures: Write) -> None:
    reading = loader(spoilt(pictures, 25), batch_size=50, max_bad=1.0)
    batch = next(iter(reading))
    assert batch.labels.tolist() == [1] * 50  # nothing of class a is left
    assert sorted(batch.ids.tolist()) == list(range(50))


@pytest.mark.parametrize(("max_bad", "limit"), [(0.1, 5), (0.001, 1), (0.0, 0)])
def test_too_many_broken_images_end_the_run(pictures: Write, max_bad: float, limit: int) -> None:
    root = spoilt(pictures, limit + 1)
    reading = loader(root, max_bad=max_bad)
    message = (
        rf"^{limit + 1} of 50 images .*data\.max_bad, {max_bad:g}, allows {limit}; the first is {root}/a/\d+\.jpg: \w"
    )
    with pytest.raises(DataError, match=message):
        list(islice(reading, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_broken_images_ends_at_once(pictures: Write, workers: int) -> None:
    root = pictures(("a",), each=12)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    reading = loader(root, max_bad=1.0, workers=workers)
    with pytest.raises(DataError, match=r"12 images cannot be read and none takes the place of one; the .* empty"):
        next(iter(reading))
    reading.close()


def test_a_file_that_vanishes_while_training_is_replaced(pictures: Write) -> None:
    root = pictures()
    reading = loader(root)
    (root / "b" / "003.jpg").unlink()
    list(islice(reading, 2))
    assert reading.bad == {str(root / "b" / "003.jpg"): "No such file or directory"}
