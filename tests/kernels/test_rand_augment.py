"""Every operation of RandAugment is Pillow's, to the bit, alone and one after another."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from vitkiln.kernels import use
from vitkiln.kernels._shared.native import native
from vitkiln.kernels.rand_augment import layout, rand_augment, reference

Picture = Image.Image
FILL = (10, 20, 30)
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ENHANCERS = {
    layout.COLOR: ImageEnhance.Color,
    layout.CONTRAST: ImageEnhance.Contrast,
    layout.BRIGHTNESS: ImageEnhance.Brightness,
    layout.SHARPNESS: ImageEnhance.Sharpness,
}
TABLES: dict[int, Callable[[int, float], float]] = {
    layout.POSTERIZE: lambda value, bits: value & (256 - 2 ** int(8 - bits)),
    layout.SOLARIZE_ADD: lambda value, more: min(255, value + int(more)) if value < 128 else value,
}
OTHERS: dict[int, Callable[[Picture], Picture]] = {
    layout.NONE: lambda image: image,
    layout.AUTO_CONTRAST: ImageOps.autocontrast,
    layout.EQUALIZE: ImageOps.equalize,
    layout.INVERT: ImageOps.invert,
    layout.MIRROR: ImageOps.mirror,
    layout.UPSIDE_DOWN: ImageOps.flip,
}
IMPLEMENTATIONS = [
    "reference",
    pytest.param("native", marks=pytest.mark.skipif(not native("rand_augment"), reason="not built")),
]


def by_pillow(image: Picture, row: np.ndarray, interpolation: str = "bilinear") -> Picture:
    """One operation on one picture."""
    kind, numbers = int(row[layout.KIND]), row[layout.NUMBERS].tolist()
    if kind in layout.MOVES:
        resample = RESAMPLE[interpolation]
        return image.transform(image.size, Image.Transform.AFFINE, numbers, resample, fillcolor=FILL)
    if kind in ENHANCERS:
        return ENHANCERS[kind](image).enhance(numbers[0])
    if kind in TABLES:
        return image.point([TABLES[kind](value, numbers[0]) for value in range(256)] * 3)
    return ImageOps.solarize(image, int(numbers[0])) if kind == layout.SOLARIZE else OTHERS[kind](image)


def smooth(height: int = 37, width: int = 53) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 9 + c) * np.cos(y / (5 + 3 * c)) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def noise(height: int = 37, width: int = 53, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (height, width, 3), np.uint8)


IMAGES = {
    "smooth": smooth(),
    "noise": noise(),
    "narrow range": noise(23, 31, 90, 140),
    "one colour": np.full((9, 8, 3), (7, 200, 255), np.uint8),
    "two colours": np.where(noise(19, 20) < 30, (5, 250, 0), (9, 251, 255)).astype(np.uint8),
    "two colours, one rare": np.where(np.arange(40 * 50).reshape(40, 50, 1) == 3, 200, 100)
    .repeat(3, 2)
    .astype(np.uint8),
    "one pixel": noise(1, 1),
    "two rows": noise(2, 40),
    "three columns": smooth(224, 3),
}
FACTORS = [0.1, 0.19, 0.5, 0.7300001, 1.0, 1.2, 1.81, 1.9]


def levels(kind: int, height: int, width: int) -> list[np.ndarray]:
    """An operation from weak to strong, either way."""
    signed = np.array([-1, -0.83, -0.4, -1 / 7, -0.01, 0, 0.01, 1 / 3, 0.5, 0.9, 1])
    numbers: dict[int, list[tuple[float, ...]]] = {
        layout.ROTATE: [layout.rotation(30 * part, width, height) for part in signed],
        layout.SHEAR_X: [(1, 0.3 * part, 0, 0, 1, 0) for part in signed],
        layout.SHEAR_Y: [(1, 0, 0, 0.3 * part, 1, 0) for part in signed],
        layout.TRANSLATE_X: [(1, 0, 0.45 * part * width, 0, 1, 0) for part in signed],
        layout.TRANSLATE_Y: [(1, 0, 0, 0, 1, 0.45 * part * height) for part in signed],
        layout.POSTERIZE: [(bits,) for bits in range(9)],
        layout.SOLARIZE: [(0,), (1,), (26,), (128,), (255,), (256,)],
        layout.SOLARIZE_ADD: [(0,), (1,), (60,), (110,), (255,)],
        **{enhancer: [(factor,) for factor in FACTORS] for enhancer in ENHANCERS},
    }
    return [layout.row(kind, *each) for each in numbers.get(kind, [()])]


def random_rows(count: int, layers: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    every = [levels(kind, height, width) for kind in range(18)]
    picked = [every[kind][draw.integers(len(every[kind]))] for kind in draw.integers(0, 18, count * layers)]
    return np.array(picked).reshape(count, layers, layout.COUNT)


def done(images: np.ndarray, rows: np.ndarray, implementation: str, interpolation: str = "bilinear") -> np.ndarray:
    given = torch.from_numpy(images), torch.from_numpy(rows), FILL, interpolation
    if implementation == "native":
        return rand_augment(*given).numpy()
    with use(implementation, "rand_augment"):
        return rand_augment(*given).numpy()


def agree(image: np.ndarray, rows: np.ndarray, implementation: str, interpolation: str = "bilinear") -> None:
    """rows [N, L, 7]"""
    made = done(np.repeat(image[None], len(rows), 0), rows, implementation, interpolation)
    for found, layers in zip(made, rows, strict=True):
        expected = Image.fromarray(image)
        for row in layers:
            expected = by_pillow(expected, row, interpolation)
        assert (found == np.asarray(expected)).all(), layers


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("kind", [kind for kind in range(18) if kind not in layout.MOVES])
def test_an_operation_is_pillows(kind: int, image: str, implementation: str) -> None:
    rows = np.stack(levels(kind, *IMAGES[image].shape[:2]))
    agree(IMAGES[image], rows[:, None], implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("kind", layout.MOVES)
def test_a_move_is_pillows(kind: int, image: str, interpolation: str, implementation: str) -> None:
    rows = np.stack(levels(kind, *IMAGES[image].shape[:2]))
    agree(IMAGES[image], rows[:, None], implementation, interpolation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_range_is_stretched_as_pillow_stretches_it(implementation: str) -> None:
    low, high = np.triu_indices(256)
    images = np.clip(np.arange(256), low[::29, None], high[::29, None]).astype(np.uint8)
    images = images[:, None, :, None].repeat(3, 3)  # all values from the lowest to the highest, along a row
    rows = np.repeat(layout.row(layout.AUTO_CONTRAST)[None, None], len(images), 0)
    expected = np.stack([np.asarray(ImageOps.autocontrast(Image.fromarray(image))) for image in images])
    assert (done(images, rows, implementation) == expected).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("image", ["smooth", "noise", "three columns"])
def test_layers_follow_each_other(image: str, interpolation: str, implementation: str) -> None:
    agree(IMAGES[image], random_rows(48, 4, *IMAGES[image].shape[:2]), implementation, interpolation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("interpolation", RESAMPLE)
@given(numbers=st.tuples(*[st.floats(-3, 3)] * 2, st.floats(-30, 30), *[st.floats(-3, 3)] * 2, st.floats(-30, 30)))
def test_any_map_is_pillows(implementation: str, interpolation: str, numbers: tuple[float, ...]) -> None:
    agree(noise(13, 17), layout.row(layout.SHEAR_X, *numbers)[None, None], implementation, interpolation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e300])
def test_a_map_to_nowhere_shows_the_fill_alone(number: float, implementation: str) -> None:
    rows = np.stack([layout.row(kind, 1, 0, number, 0, 1, number)[None] for kind in layout.MOVES])
    assert (done(np.repeat(noise()[None], len(rows), 0), rows, implementation) == FILL).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", [-1.0, 3.5, 18.0, 1e300, float("nan")])
def test_a_kind_that_there_is_not_changes_nothing(kind: float, implementation: str) -> None:
    rows = np.full((1, 2, layout.COUNT), kind)
    assert (done(noise()[None], rows, implementation) == noise()).all()


@pytest.mark.parametrize("degrees", [0.0, 360.0, -27.3, 12.5, 359.99])
@pytest.mark.parametrize("size", [(31, 20), (40, 40)])
def test_a_rotation_is_pillows(degrees: float, size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*size[::-1]))
    found = by_pillow(image, layout.row(layout.ROTATE, *layout.rotation(degrees, *size)), "bicubic")
    assert (np.asarray(found) == np.asarray(image.rotate(degrees, RESAMPLE["bicubic"], fillcolor=FILL))).all()


def mixed(count: int = 24, layers: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that differ, and operations."""
    images = np.stack([smooth(), noise()] * (count // 2))
    return torch.from_numpy(images), torch.from_numpy(random_rows(count, layers, *images.shape[1:3]))


def test_rows_do_not_touch_each_other() -> None:
    images, rows = mixed()
    alone = [rand_augment(images[i : i + 1], rows[i : i + 1], FILL) for i in range(len(images))]
    assert torch.equal(rand_augment(images, rows, FILL), torch.cat(alone))


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_computing_all_kinds_as_a_gpu_does_changes_nothing(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, rows = mixed()
    expected = rand_augment(images, rows, FILL, "bicubic")
    monkeypatch.setattr(reference, "SELECTING", frozenset())
    with use(implementation, "rand_augment"):
        assert torch.equal(rand_augment(images, rows, FILL, "bicubic"), expected)


def test_threads_share_the_images() -> None:
    images, rows = mixed()
    expected = rand_augment(images, rows, FILL)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    shared = rand_augment(images, rows, FILL)
    torch.set_num_threads(before)
    assert torch.equal(shared, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("shape", [(4, 8, 8, 3), (4, 1, 1, 3)])
def test_the_argument_is_left_alone_and_the_result_is_new(
    shape: tuple[int, ...], layers: int, implementation: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = images.copy()
    made = done(images, random_rows(4, layers, *shape[1:3]), implementation)
    assert (images == before).all()
    assert not np.shares_memory(made, images)
    assert layers > 0 or (made == images).all()


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (3, 1, 1, 3), (130, 4, 4, 3)])
def test_any_number_of_images(shape: tuple[int, ...]) -> None:
    rows = torch.from_numpy(random_rows(shape[0], 2, *shape[1:3]))
    for implementation in ("reference", "torch"):
        with use(implementation, "rand_augment"):
            assert rand_augment(torch.zeros(shape, dtype=torch.uint8), rows, FILL).shape == shape
    assert rand_augment(torch.zeros(shape, dtype=torch.uint8), rows, FILL).shape == shape


def test_strided_images_are_read_right() -> None:
    images, rows = mixed()
    strided = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(rand_augment(strided, rows, FILL), rand_augment(images, rows, FILL))


@pytest.mark.parametrize("implementation", ["native", "torch"])
def test_the_operator_is_registered_as_torch_asks(implementation: str) -> None:
    images, rows = mixed(2)
    torch.library.opcheck(torch.ops.vitkiln.rand_augment.default, (images, rows, [*FILL], "bicubic", implementation))


def test_it_compiles_without_a_break() -> None:
    images, rows = mixed(2)
    compiled = torch.compile(rand_augment, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images, rows, FILL, "bicubic"), rand_augment(images, rows, FILL, "bicubic"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("images", torch.zeros(2, 4, 4, 3), r"float32 \[2, 4, 4, 3\].*; must be uint8 \[B, H, W, 3\]"),
        ("images", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"uint8 \[2, 3, 4, 4\].*; must be uint8 \[B, H, W, 3\]"),
        ("images", torch.zeros(2, 0, 4, 3, dtype=torch.uint8), r"uint8 .*; must be of 1 to 16384 pixels along a side"),
        ("operations", torch.zeros(2, 1, 7), r"float32 .*; must be float64 \[2, L, 7\]"),
        ("operations", torch.zeros(3, 1, 7).double(), r"float64 \[3, 1, 7\].*; must be float64 \[2, L, 7\]"),
        ("operations", torch.zeros(2, 7).double(), r"float64 \[2, 7\].*; must be float64 \[2, L, 7\]"),
        (
            "operations",
            torch.zeros(2, 1, 7, device="meta").double(),
            r"float64 .* on meta; must be on cpu, as images is",
        ),
        ("fill", (1, 2), r"\(1, 2\); must be three values from 0 to 255"),
        ("fill", (1, 2, 256), r"\(1, 2, 256\); must be three values from 0 to 255"),
        ("interpolation", "nearest", "'nearest'; must be bilinear or bicubic"),
    ],
)
def test_bad_arguments_are_named(name: str, value: object, message: str) -> None:
    right = {
        "images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
        "operations": torch.zeros(2, 1, 7).double(),
        "fill": FILL,
        "interpolation": "bilinear",
    }
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        rand_augment(**{**right, name: value})


@pytest.mark.gpu
@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize("implementation", ["native", "torch"])
@pytest.mark.parametrize("image", IMAGES)
def test_a_gpu_makes_the_same_without_waiting(image: str, implementation: str, interpolation: str) -> None:
    rows = torch.from_numpy(random_rows(72, 3, *IMAGES[image].shape[:2]))
    images = torch.from_numpy(np.repeat(IMAGES[image][None], len(rows), 0))
    expected = rand_augment(images, rows, FILL, interpolation)
    there, table = images.cuda(), rows.cuda()
    native("rand_augment", "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        if implementation == "native":
            found = rand_augment(there, table, FILL, interpolation)
        else:
            with use(implementation, "rand_augment"):
                found = rand_augment(there, table, FILL, interpolation)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), expected)
