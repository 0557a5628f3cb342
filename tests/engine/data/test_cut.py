"""Whoever cuts a view, it is the one that Pillow cuts."""

import numpy as np
import pytest
from PIL import Image

from vitkiln.engine.data.cut import Sheet
from vitkiln.engine.data.draw import crop_box, uniforms
from vitkiln.engine.vocabulary import View
from vitkiln.kernels import use
from vitkiln.kernels.crop_views import ready

from .conftest import picture


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 200), (200, 230), (64, 1), (20, 20)])
def test_native_code_and_pillow_cut_the_same(interpolation: str, size: tuple[int, int]) -> None:
    image, view = picture(5, *size), View(size=48, interpolation=interpolation)
    sheet = Sheet(image)
    for sample in range(20):
        box = crop_box(uniforms(0, 0, 0, sample), *size, view)
        with use("reference", "crop_views"):
            assert not ready("cpu")
            expected = Sheet(image).cut(box, view)
        assert (sheet.cut(box, view) == expected).all()


@pytest.mark.skipif(not ready("cpu"), reason="csrc is not built here")
def test_a_picture_becomes_a_tensor_once() -> None:
    sheet = Sheet(Image.fromarray(np.zeros((200, 200, 3), np.uint8)))
    sheet.cut((0, 0, 100, 100), View(size=8))
    pixels = sheet.pixels
    sheet.cut((0, 0, 200, 100), View(size=8))
    assert pixels is not None
    assert sheet.pixels is pixels
