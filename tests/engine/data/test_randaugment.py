"""A policy draws Pillow's operations at the published strength, as often as published."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from vitkiln.engine.data.randaugment import FILTERS, FLIPS, NUMBERS, OPERATIONS, Brush, RandAugment
from vitkiln.engine.settings.randaugment import Policy, policy
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.rand_augment import layout, rand_augment

from .conftest import picture

Picture = Image.Image
FILL = (10, 20, 30)
BICUBIC = Image.Resampling.BICUBIC
IMAGE = picture(5, 40, 40).rotate(17, expand=False)
POLICY = "rand-m9-mstd0.5-inc1"
NAMES = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "colour", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip


def done(name: str, level: float, sign: float = 1.0) -> np.ndarray:
    """What is drawn for an operation, done by the operator."""
    kind, numbers = OPERATIONS[NAMES.index(name)]
    return carried_out(IMAGE, layout.row(kind, *numbers(Brush(level, sign, *IMAGE.size)))[None], "bicubic")


def carried_out(image: Picture, table: np.ndarray, interpolation: str) -> np.ndarray:
    pixels = torch.from_numpy(np.array(image))[None]
    return rand_augment(pixels, torch.from_numpy(table)[None], FILL, interpolation)[0].numpy()


def moved(coefficients: Callable[[Picture, float], tuple[float, ...]], most: float) -> Callable[..., Picture]:
    def by_pillow(image: Picture, level: float, sign: float, resample: Image.Resampling) -> Picture:
        where = coefficients(image, sign * level / 10 * most)
        return image.transform(image.size, Image.Transform.AFFINE, where, resample, fillcolor=FILL)

    return by_pillow


def enhanced(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Callable[..., Picture]:
    return lambda image, level, sign, _: kind(image).enhance(max(0.1, 1 + sign * level / 10 * 0.9))


def posterized(image: Picture, level: float, *_: object) -> Picture:
    """Down to no bit, which Pillow's own function refuses."""
    return image.point([value & (256 - 2 ** (4 + int(level / 10 * 4))) for value in range(256)] * 3)


def raised(image: Picture, level: float, *_: object) -> Picture:
    more = int(level / 10 * 110)
    return image.point([min(255, value + more) if value < 128 else value for value in range(256)] * 3)


BY_PILLOW: dict[str, Callable[..., Picture]] = {  # of image, level, sign and filter
    "auto_contrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": lambda image, level, sign, resample: image.rotate(sign * level / 10 * 30, resample, fillcolor=FILL),
    "posterize": posterized,
    "solarize": lambda image, level, *_: ImageOps.solarize(image, 256 - int(level / 10 * 256)),
    "solarize_add": raised,
    "colour": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
    "shear_x": moved(lambda image, by: (1, by, 0, 0, 1, 0), 0.3),
    "shear_y": moved(lambda image, by: (1, 0, 0, by, 1, 0), 0.3),
    "translate_x": moved(lambda image, by: (1, 0, by * image.width, 0, 1, 0), 0.45),
    "translate_y": moved(lambda image, by: (1, 0, 0, 0, 1, by * image.height), 0.45),
}


def policy_by_pillow(image: Picture, name: str, numbers: list[float], flips: tuple[bool, bool], view: View) -> Picture:
    """One picture, one operation after another."""
    said, (mirrored, upside_down) = policy(name), flips
    image = ImageOps.mirror(image) if mirrored else image
    image = ImageOps.flip(image) if upside_down else image
    for which, whether, much, way in np.array(numbers).reshape(-1, NUMBERS).tolist():
        if whether < said.probability:
            level = min(
                10.0, max(0.0, NormalDist(said.magnitude, said.std).inv_cdf(much) if said.std else said.magnitude)
            )
            operation = BY_PILLOW[NAMES[int(which * 15)]]
            image = operation(image, level, 1.0 if way < 0.5 else -1.0, FILTERS[view.interpolation])
    return image


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(40, 40), (57, 31)])
@pytest.mark.parametrize("name", [POLICY, "rand-m5-n4-p0.9-mstd3-inc1", "rand-m10-n1-inc1"])
def test_whole_policies_are_pillows_pictures(name: str, size: tuple[int, int], interpolation: str) -> None:
    view = View(randaugment=name, interpolation=interpolation, fill=FILL)
    augment, draw = RandAugment(view), np.random.default_rng(1)
    image = picture(5, *size).rotate(17, expand=False)
    for number in range(60):
        numbers, flips = draw.random(augment.numbers).tolist(), (number % 2 == 1, number % 4 > 1)
        made = carried_out(image, augment.operations(numbers, flips, *size), interpolation)
        assert (made == np.asarray(policy_by_pillow(image, name, numbers, flips, view))).all(), (number, numbers)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.0, 3.3, 9.0, 10.0])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_pillows_at_its_part_of_the_range(name: str, level: float, sign: float) -> None:
    assert (done(name, level, sign) == np.asarray(BY_PILLOW[name](IMAGE, level, sign, BICUBIC))).all()


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


def made(name: str = POLICY) -> RandAugment:
    return RandAugment(View(randaugment=name, interpolation="bicubic", fill=FILL))


def shown(augment: RandAugment, numbers: list[float]) -> np.ndarray:
    return carried_out(IMAGE, augment.operations(numbers, (False, False), *IMAGE.size), "bicubic")


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_a_picture_is_flipped_before_anything_else(flips: tuple[bool, bool]) -> None:
    table = made().operations([0.5, 0.9] * NUMBERS, flips, 40, 40)
    assert table.shape == (FLIPS + 2, layout.COUNT)
    expected = np.asarray(IMAGE)[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    assert (carried_out(IMAGE, table[:FLIPS], "bicubic") == expected).all()


@pytest.mark.parametrize(("operation", "name"), list(enumerate(NAMES)))
def test_a_uniform_number_chooses_among_all_operations_alike(operation: int, name: str) -> None:
    numbers = [(operation + 0.5) / len(NAMES), 0.0, 0.5, 0.0, 0.0, 0.9, 0.5, 0.0]  # the second layer does nothing
    assert (shown(made(), numbers) == done(name, 9.0)).all()


def test_layers_follow_each_other() -> None:
    invert, solarize = (NAMES.index(name) / len(NAMES) + 1e-9 for name in ("invert", "solarize"))
    after = shown(made(), [invert, 0.0, 0.5, 0.0, solarize, 0.0, 0.5, 0.0])
    assert (after == np.asarray(ImageOps.solarize(ImageOps.invert(IMAGE), 26))).all()


def test_half_of_the_layers_do_nothing() -> None:
    augment, invert = made("rand-m9-n1-inc1"), NAMES.index("invert") / len(NAMES) + 1e-9
    left = [shown(augment, [invert, whether, 0.5, 0.0]) for whether in (0.4999, 0.5001)]
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
