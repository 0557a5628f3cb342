"""Evaluation sees every readable image once, scaled and cut as the protocol says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.source import Source, open_source
from vitkiln.engine.data.still import centre, stills, subset
from vitkiln.engine.errors import DataError
from vitkiln.engine.settings import Data

from .conftest import picture

Write = Callable[..., Path]


def opened(root: Path) -> Source:
    source = open_source(Data(root=str(root)), 0)
    assert source is not None
    return source


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (257, 256), (90, 70), (224, 224)])
def test_a_crop_is_the_centre_of_the_scaled_picture(size: tuple[int, int]) -> None:
    image = picture(3, *size)
    short = min(size)
    scaled = image.resize(tuple(int(256 * side / short) for side in size), Image.Resampling.BICUBIC)
    left, top = (round((side - 224) / 2) for side in scaled.size)
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224))).astype(int)
    assert np.abs(np.asarray(centre(image, 224)) - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (60_000, 2)])
def test_a_thin_picture_is_never_scaled_as_a_whole(size: tuple[int, int]) -> None:
    assert centre(picture(0, *size), 224).size == (224, 224)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_in_their_order_with_their_labels(pictures: Write, workers: int) -> None:
    source = opened(pictures(each=40))
    parts = list(stills(source, 32, batch_size=50, workers=workers, limit=None, seed=0))
    assert [len(labels) for _, labels in parts] == [50, 30]
    pixels, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    assert labels.tolist() == [0] * 40 + [1] * 40
    assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert all((pixels[index].numpy() == np.asarray(centre(source.image(index), 32))).all() for index in (0, 33, 79))


def test_broken_images_are_left_out(pictures: Write) -> None:
    root = pictures(each=5)
    (root / "a" / "002.jpg").write_bytes(b"")
    parts = list(stills(opened(root), 32, batch_size=4, workers=0, limit=None, seed=0))
    assert [len(labels) for _, labels in parts] == [3, 4, 2]


def test_nothing_readable_is_an_error(pictures: Write) -> None:
    root = pictures(("a",), each=2)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 2 images .*a/000\.jpg: the file is empty"):
        list(stills(opened(root), 32, batch_size=4, workers=0, limit=None, seed=0))


def test_a_limit_takes_one_image_of_each_stretch() -> None:
    chosen = subset(1000, 100, seed=0)
    assert (chosen // 10 == np.arange(100)).all()
    assert (chosen == subset(1000, 100, seed=0)).all()
    assert (chosen != subset(1000, 100, seed=1)).any()
    assert (subset(10, 20, seed=0) == np.arange(10)).all()


def test_no_labels_are_minus_one(pictures: Write) -> None:
    ((_, labels),) = stills(opened(pictures(("",), each=3)), 32, batch_size=8, workers=0, limit=None, seed=0)
    assert labels.tolist() == [-1, -1, -1]
