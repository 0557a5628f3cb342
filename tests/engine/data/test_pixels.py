"""A Pillow image's memory is read where it lies, and stays as long as somebody reads it."""

import gc

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.pixels import pixels

from .conftest import picture


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (400, 300), (20_000, 3), (3, 6000)])
def test_every_pixel_is_there(size: tuple[int, int]) -> None:
    image = picture(3, *size)
    assert torch.equal(pixels(image), torch.from_numpy(np.array(image)))


def test_a_large_image_in_several_blocks_is_copied() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8))
    assert torch.equal(pixels(image), torch.from_numpy(np.array(image)))


def test_nothing_is_copied_where_pillow_can_tell() -> None:
    image = picture(3, 40, 30)
    if not hasattr(image, "__arrow_c_array__"):
        pytest.skip("this Pillow cannot")
    found = pixels(image)
    assert found.stride() == (160, 4, 1)
    image.putpixel((7, 5), (1, 2, 3))
    assert found[5, 7].tolist() == [1, 2, 3]


def test_the_memory_outlives_the_image() -> None:
    kept = [pixels(Image.fromarray(np.full((300, 300, 3), number, np.uint8))) for number in range(100)]
    gc.collect()
    other = [Image.new("RGB", (300, 300), "white") for _ in range(100)]
    assert all((found == number).all() for number, found in enumerate(kept))
    assert len(other) == 100
