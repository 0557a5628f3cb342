"""What a worker makes of an image before its colours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.crops import Cutter, Task, cut, padded
from vitkiln.engine.data.draw import UNIFORMS, crop_box, uniforms
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.randaugment import RandAugment
from vitkiln.engine.data.source import Source, open_source
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View
from vitkiln.kernels import augment_views, rand_augment

from .conftest import picture

PLAIN = {"jitter_probability": 0.0, "gray": 0.0, "flip": 0.0}


def at(x: float, y: float) -> list[float]:
    return [x, y, *[0.0] * (UNIFORMS - 2)]


def shown(source: Source, view: View) -> np.ndarray:
    """The third image as a method would see it."""
    crops = Cutter(source, (view,), 0)(Task(0, np.array([3])))
    return augment_views(crops.views[0], torch.from_numpy(crops.parameters[0]))[0].numpy()


@pytest.mark.parametrize(
    ("corner", "shown", "where"),
    [
        ((0.0, 0.0), np.s_[:28, :28], np.s_[4:, 4:]),
        ((0.5, 0.5), np.s_[:, :], np.s_[:, :]),
        ((0.999, 0.5), np.s_[:, 4:], np.s_[:, :28]),
    ],
)
def test_a_square_of_the_right_size_is_moved_over_black(corner, shown, where) -> None:
    image = picture(3, 32, 32)
    square = padded(image, at(*corner), View(size=32, padding=4))
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[where] = np.asarray(image)[shown]
    assert (square == expected).all()


def test_a_larger_image_is_scaled_to_the_view_before_it_is_moved() -> None:
    image = picture(3, 96, 64)
    square = padded(image, at(0.0, 0.5), View(size=32, padding=4, interpolation="bicubic"))
    assert (square[:, :4] == 0).all()
    part = image.resize((28, 32), Image.Resampling.BICUBIC, box=(0, 0, 56, 64))
    assert (square[:, 4:] == np.asarray(part)).all()


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (31, 33)])
def test_a_shift_is_made_of_any_image(size: tuple[int, int]) -> None:
    for sample in range(20):
        square = padded(picture(1, *size), uniforms(0, 0, 0, sample), View(size=16, padding=15))
        assert square.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("ways", "turned"),
    [({"vertical_flip": 1.0}, np.s_[::-1]), ({"flip": 1.0, "vertical_flip": 1.0}, np.s_[::-1, ::-1])],
)
def test_an_image_upside_down_is_the_flipped_crop(pictures: Callable[..., Path], ways, turned) -> None:
    source = open_source(Data(root=str(pictures(each=5))), 0)
    assert source is not None
    upright, flipped = (shown(source, View(size=24, **{**PLAIN, **way})) for way in ({}, ways))
    assert (flipped == upright[turned]).all()


def test_randaugment_sees_the_crop_flipped(pictures: Callable[..., Path]) -> None:
    source = open_source(Data(root=str(pictures(each=15))), 0)
    assert source is not None
    view = View(size=24, flip=1.0, vertical_flip=1.0, randaugment="rand-m9-n2-p1-inc1", jitter_probability=0, gray=0)
    loader = Loader(source, (view,), batch_size=30, seed=0, workers=0, device=torch.device("cpu"), max_bad=0.0)
    batch = next(iter(loader))
    augment = RandAugment(view)
    for pixels, sample in zip(batch.views[0], batch.ids.tolist(), strict=True):
        numbers = uniforms(0, 0, 0, sample, augment.numbers)
        crop = cut(source.image(sample), crop_box(numbers, 48, 36, view), view)
        table = augment.operations(numbers[UNIFORMS:], (False, False), 24, 24)
        turned = torch.from_numpy(np.ascontiguousarray(crop[::-1, ::-1]))[None]
        expected = rand_augment(turned, torch.from_numpy(table)[None], view.fill, view.interpolation)
        assert torch.equal(pixels, expected[0])


def test_copies_of_an_image_have_its_label_and_crops_of_their_own(pictures: Callable[..., Path]) -> None:
    source = open_source(Data(root=str(pictures(each=5))), 0)
    assert source is not None
    crops = Cutter(source, (View(size=16, **PLAIN),), 0)(Task(0, np.array([7, 17, 27])))
    assert crops.labels.tolist() == [source.label(7)] * 3
    first, second, third = crops.views[0].numpy()
    assert not (first == second).all()
    assert not (second == third).all()


def test_an_image_without_copies_is_cut_as_ever(pictures: Callable[..., Path]) -> None:
    source = open_source(Data(root=str(pictures(each=5))), 0)
    assert source is not None
    view = View(size=16, **PLAIN)
    crops = Cutter(source, (view,), 4)(Task(2, np.array([7])))
    expected = cut(source.image(7), crop_box(uniforms(4, 2, 0, 7), *source.image(7).size, view), view)
    assert (crops.views[0][0].numpy() == expected).all()
