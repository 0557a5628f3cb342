"""Each operation of RandAugment is Pillow's, at the published strength, as often as published."""

import importlib
import importlib.util
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vitkiln.engine.data.randaugment import NUMBERS, OPERATIONS, Brush, RandAugment
from vitkiln.engine.settings.randaugment import Policy, policy
from vitkiln.engine.vocabulary import View

from .conftest import picture

FILL = (10, 20, 30)
BICUBIC = Image.Resampling.BICUBIC
IMAGE = picture(5, 40, 40).rotate(17, expand=False)
NAMES = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "colour", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip


def done(name: str, level: float, sign: float = 1.0) -> np.ndarray:
    return np.asarray(OPERATIONS[NAMES.index(name)](IMAGE, Brush(level, sign, BICUBIC, FILL)))


def affine(*coefficients: float) -> Image.Image:
    return IMAGE.transform(IMAGE.size, Image.Transform.AFFINE, coefficients, BICUBIC, fillcolor=FILL)


EXPECTED = {  # at level 9, for either sign
    "auto_contrast": lambda sign: ImageOps.autocontrast(IMAGE),
    "equalize": lambda sign: ImageOps.equalize(IMAGE),
    "invert": lambda sign: ImageOps.invert(IMAGE),
    "rotate": lambda sign: IMAGE.rotate(sign * 27, BICUBIC, fillcolor=FILL),
    "posterize": lambda sign: ImageOps.posterize(IMAGE, 1),
    "solarize": lambda sign: ImageOps.solarize(IMAGE, 26),
    "colour": lambda sign: ImageEnhance.Color(IMAGE).enhance(1 + sign * 0.81),
    "contrast": lambda sign: ImageEnhance.Contrast(IMAGE).enhance(1 + sign * 0.81),
    "brightness": lambda sign: ImageEnhance.Brightness(IMAGE).enhance(1 + sign * 0.81),
    "sharpness": lambda sign: ImageEnhance.Sharpness(IMAGE).enhance(1 + sign * 0.81),
    "shear_x": lambda sign: affine(1, sign * 0.27, 0, 0, 1, 0),
    "shear_y": lambda sign: affine(1, 0, 0, sign * 0.27, 1, 0),
    "translate_x": lambda sign: affine(1, 0, sign * 0.405 * 40, 0, 1, 0),
    "translate_y": lambda sign: affine(1, 0, 0, 0, 1, sign * 0.405 * 40),
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", EXPECTED)
def test_an_operation_is_pillows_at_nine_tenths_of_its_range(name: str, sign: float) -> None:
    assert (done(name, 9.0, sign) == np.asarray(EXPECTED[name](sign))).all()


def test_solarize_add_raises_what_is_dark_and_nothing_else() -> None:
    before, after = np.asarray(IMAGE).astype(int), done("solarize_add", 9.0)
    assert (after[before < 128] == np.minimum(255, before[before < 128] + 99)).all()
    assert (after[before >= 128] == before[before >= 128]).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"auto_contrast", "equalize", "invert", "posterize"}))
def test_the_lowest_level_changes_nothing(name: str) -> None:
    assert (done(name, 0.0) == np.asarray(IMAGE)).all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"auto_contrast", "equalize", "invert"}))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_higher_level_changes_more(name: str, sign: float) -> None:
    low, high = (np.abs(done(name, level, sign).astype(int) - np.asarray(IMAGE)).mean() for level in (2.0, 10.0))
    assert low < high


def test_the_highest_level_keeps_no_bit_and_a_tenth_of_contrast() -> None:
    assert (done("posterize", 10.0) == 0).all()
    assert (done("contrast", 10.0, -1.0) == np.asarray(ImageEnhance.Contrast(IMAGE).enhance(0.1))).all()


def test_what_comes_from_beyond_the_picture_has_the_colour_of_the_view() -> None:
    assert (done("translate_x", 10.0)[:, -10:] == FILL).all()
    assert (done("translate_x", 10.0, -1.0)[:, :10] == FILL).all()


def made(name: str = "rand-m9-mstd0.5-inc1") -> RandAugment:
    return RandAugment(View(randaugment=name, interpolation="bicubic", fill=FILL))


@pytest.mark.parametrize(("operation", "name"), list(enumerate(NAMES)))
def test_a_uniform_number_chooses_among_all_operations_alike(operation: int, name: str) -> None:
    numbers = [(operation + 0.5) / len(NAMES), 0.0, 0.5, 0.0, 0.0, 0.9, 0.5, 0.0]  # the second layer does nothing
    assert (np.asarray(made()(IMAGE, numbers)) == done(name, 9.0)).all()


def test_layers_follow_each_other() -> None:
    invert, solarize = (NAMES.index(name) / len(NAMES) + 1e-9 for name in ("invert", "solarize"))
    after = made()(IMAGE, [invert, 0.0, 0.5, 0.0, solarize, 0.0, 0.5, 0.0])
    assert (np.asarray(after) == np.asarray(ImageOps.solarize(ImageOps.invert(IMAGE), 26))).all()


def test_half_of_the_layers_do_nothing() -> None:
    augment, invert = made("rand-m9-n1-inc1"), NAMES.index("invert") / len(NAMES) + 1e-9
    left = [np.asarray(augment(IMAGE, [invert, whether, 0.5, 0.0])) for whether in (0.4999, 0.5001)]
    assert (left[0] == np.asarray(ImageOps.invert(IMAGE))).all()
    assert (left[1] == np.asarray(IMAGE)).all()


def test_levels_are_normal_and_cut_at_the_ends() -> None:
    augment = made()
    levels = np.array([augment.level(uniform) for uniform in (np.arange(4000) + 0.5) / 4000])
    assert np.quantile(levels, [0.1, 0.5, 0.9]) == pytest.approx(
        [NormalDist(9, 0.5).inv_cdf(part) for part in (0.1, 0.5, 0.9)], abs=0.01
    )
    assert levels.max() == 10
    assert (levels == 10).mean() == pytest.approx(1 - NormalDist().cdf(2), abs=0.001)
    assert made("rand-m0-mstd3-inc1").level(0.0) == 0
    assert {made("rand-m7-inc1").level(uniform) for uniform in (0.0, 0.3, 0.99)} == {7.0}


def test_a_view_needs_four_numbers_a_layer() -> None:
    assert made().numbers == 2 * NUMBERS
    assert made("rand-m5-n3-inc1").numbers == 3 * NUMBERS


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rand-m9-mstd0.5-inc1", Policy(9.0, 0.5)),
        ("rand-m7-n3-p0.8-inc1", Policy(7.0, 0.0, 3, 0.8)),
        ("rand-m10-inc1", Policy(10.0)),
    ],
)
def test_a_name_says_what_is_done(name: str, said: Policy) -> None:
    assert policy(name) == said


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rand-m9-mstd0.5", "must be rand-mM"),
        ("augmix-m3", "must be rand-mM"),
        ("rand-m11-inc1", "m11, must be at most 10"),
        ("rand-m9-p1.5-inc1", "p1.5, must be at most 1"),
    ],
)
def test_an_unknown_policy_is_refused(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        policy(name)


def test_the_policy_agrees_with_timm() -> None:
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).parents[1] / "with_timm.py")
    assert spec is not None
    assert spec.loader is not None
    shim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shim)
    shim.vision_transformer()  # or skip
    timm = importlib.import_module("timm.data.auto_augment")
    settings = {"img_mean": FILL, "interpolation": BICUBIC}
    theirs = timm.rand_augment_transform("rand-m9-n1-p1-inc1", settings)
    for name, operation in zip(NAMES, theirs.ops, strict=True):
        given = [np.asarray(operation(IMAGE)) for _ in range(8)]  # either sign
        ours = [done(name, 9.0, sign) for sign in (1.0, -1.0)]
        assert all(any((theirs_ == ours_).all() for ours_ in ours) for theirs_ in given), name
