"""Every operation is Pillow's, to the bit, alone and in the chain that the loader asks for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitkiln import kernels
from vitkiln.kernels import augment_views
from vitkiln.kernels.augment_views import colour, columns
from vitkiln.kernels.augment_views.blur import blur
from vitkiln.kernels.augment_views.colour import hsv, rgb

Picture = Image.Image
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def smooth(height: int = 37, width: int = 53) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 9 + c) * np.cos(y / (5 + 3 * c)) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def noise(height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


IMAGES = [smooth, noise, lambda: noise(1, 1), lambda: noise(2, 40), lambda: smooth(224, 3)]


def turned(image: Picture, hue: float) -> Picture:
    """Hue as torchvision turns it in Pillow's images."""
    h, s, v = image.convert("HSV").split()
    shifted = np.asarray(h) + np.int32(np.float64(hue) * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted.astype(np.uint8)), s, v)).convert("RGB")


def pillow(image: Picture, row: np.ndarray) -> Picture:
    """The same chain, one image and one operation at a time."""
    if row[columns.JITTER]:
        for operation in row[columns.ORDER].astype(int):
            if operation < 3:
                image = ENHANCERS[operation](image).enhance(float(row[columns.FACTORS][operation]))
            elif row[columns.HUE]:
                image = turned(image, row[columns.HUE])
    if row[columns.GRAY]:
        image = image.convert("L").convert("RGB")
    if row[columns.SIGMA]:
        image = image.filter(ImageFilter.GaussianBlur(float(row[columns.SIGMA])))
    if row[columns.THRESHOLD] < 256:
        image = ImageOps.solarize(image, int(row[columns.THRESHOLD]))
    image = ImageOps.mirror(image) if row[columns.FLIP] in (1, 3) else image
    return ImageOps.flip(image) if row[columns.FLIP] >= 2 else image


def rows(count: int, **values: object) -> np.ndarray:
    table = np.repeat(columns.identity()[None], count, 0)
    for name, value in values.items():
        table[:, getattr(columns, name)] = value
    return table


def random_rows(count: int, seed: int = 0) -> np.ndarray:
    numbers = np.random.default_rng(seed)
    table = rows(count)
    for row in table:
        row[columns.ORDER] = numbers.permutation(4)
        row[columns.FACTORS] = numbers.uniform(0, 2, 3)
        row[columns.HUE] = numbers.uniform(-0.5, 0.5)
        row[[columns.JITTER, columns.GRAY]] = numbers.random(2) < 0.5
        row[columns.FLIP] = numbers.integers(4)
        row[columns.SIGMA] = numbers.choice([0, numbers.uniform(0.1, 2.4)])
        row[columns.THRESHOLD] = numbers.choice([256, 128, 20])
    return table


def agree(image: np.ndarray, table: np.ndarray) -> None:
    """Whatever runs on this machine with Pillow, and plain PyTorch with that."""
    batch = torch.from_numpy(np.repeat(image[None], len(table), 0))
    out = augment_views(batch, torch.from_numpy(table))
    for made, row in zip(out.numpy(), table, strict=True):
        expected = np.asarray(pillow(Image.fromarray(image), row))
        assert np.abs(made.astype(int) - expected).max() == 0, row
    with kernels.use("torch", "augment_views"):
        assert torch.equal(augment_views(batch, torch.from_numpy(table)), out)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("operation", range(3))
def test_brightness_contrast_and_saturation(image: Callable[[], np.ndarray], operation: int) -> None:
    table = rows(41, JITTER=1)
    table[:, columns.FACTORS.start + operation] = np.linspace(0, 2, 41)
    agree(image(), table)


@pytest.mark.parametrize("image", IMAGES)
def test_hue(image: Callable[[], np.ndarray]) -> None:
    agree(image(), rows(41, JITTER=1, HUE=np.linspace(-0.5, 0.5, 41)))


@pytest.mark.parametrize("image", IMAGES)
def test_gray_and_flips(image: Callable[[], np.ndarray]) -> None:
    agree(image(), np.concatenate([rows(1, GRAY=1), rows(4, FLIP=range(4))]))


@pytest.mark.parametrize("image", IMAGES)
def test_blur(image: Callable[[], np.ndarray]) -> None:
    agree(image(), rows(50, SIGMA=np.linspace(0.01, columns.LARGEST_SIGMA, 50)))


@pytest.mark.parametrize("image", IMAGES)
def test_solarize(image: Callable[[], np.ndarray]) -> None:
    agree(image(), rows(5, THRESHOLD=[0, 1, 128, 255, 256]))


@pytest.mark.parametrize("image", IMAGES)
def test_the_chain_in_every_order(image: Callable[[], np.ndarray]) -> None:
    agree(image(), random_rows(200))


def test_every_colour_is_turned_as_pillow_turns_it() -> None:
    wrong = 0
    for red in range(0, 256, 5):
        green, blue = np.mgrid[0:256, 0:256].astype(np.uint8)
        colours = np.stack([np.full_like(green, red), green, blue], -1)
        pixels = torch.from_numpy(colours).permute(2, 0, 1)[None]
        there = torch.stack(hsv(pixels), -1)[0].numpy()
        wrong += int((there != np.asarray(Image.fromarray(colours).convert("HSV"))).sum())
        back = rgb(*pixels.to(torch.int32).unbind(1))[0].permute(1, 2, 0).numpy()
        wrong += int((back != np.asarray(Image.frombytes("HSV", (256, 256), colours.tobytes()).convert("RGB"))).sum())
    assert wrong == 0


@given(value=st.integers(0, 255), sigma=st.floats(0.01, columns.LARGEST_SIGMA))
def test_a_blurred_plain_picture_stays_what_it_is(value: int, sigma: float) -> None:
    plain = torch.full((1, 3, 9, 9), value, dtype=torch.uint8)
    assert (blur(plain, torch.tensor([sigma])) == value).all()


def test_rows_do_not_touch_each_other() -> None:
    images, table = torch.from_numpy(np.stack([smooth(), noise()] * 6)), torch.from_numpy(random_rows(12))
    alone = [augment_views(images[i : i + 1], table[i : i + 1]) for i in range(12)]
    assert torch.equal(augment_views(images, table), torch.cat(alone))


def test_the_argument_is_left_alone() -> None:
    images = torch.from_numpy(noise()[None].copy())
    before = images.clone()
    assert augment_views(images, torch.from_numpy(rows(1))).data_ptr() != images.data_ptr()
    augment_views(images, torch.from_numpy(random_rows(1)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (3, 1, 1, 3), (130, 4, 4, 3)])
def test_any_number_of_images(shape: tuple[int, ...]) -> None:
    images = torch.zeros(shape, dtype=torch.uint8)
    assert augment_views(images, torch.from_numpy(random_rows(shape[0]))).shape == shape


def test_strided_images_are_read_right() -> None:
    images, table = torch.from_numpy(np.stack([noise()] * 4)), torch.from_numpy(random_rows(4))
    strided = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(augment_views(strided, table), augment_views(images, table))


def test_computing_all_rows_as_a_gpu_does_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, table = torch.from_numpy(np.stack([smooth(), noise()] * 30)), torch.from_numpy(random_rows(60))
    with kernels.use("torch", "augment_views"):
        chosen = augment_views(images, table)
        monkeypatch.setattr(colour, "SELECTING", frozenset())
        assert torch.equal(augment_views(images, table), chosen)


def test_reference_and_operator_agree() -> None:
    images, table = torch.from_numpy(np.stack([smooth(), noise()])), torch.from_numpy(random_rows(2))
    with kernels.use("reference", "augment_views"):
        expected = augment_views(images, table)
    assert torch.equal(augment_views(images, table), expected)


@pytest.mark.parametrize("implementation", ["native", "torch"])
def test_the_operator_is_registered_as_torch_asks(implementation: str) -> None:
    images, table = torch.from_numpy(noise()[None]), torch.from_numpy(random_rows(1))
    torch.library.opcheck(torch.ops.vitkiln.augment_views.default, (images, table, implementation))


def test_it_compiles_without_a_break() -> None:
    images, table = torch.from_numpy(noise()[None]), torch.from_numpy(random_rows(1))
    compiled = torch.compile(augment_views, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images, table), augment_views(images, table))


@pytest.mark.parametrize(
    ("images", "parameters", "message"),
    [
        (
            torch.zeros(2, 4, 4, 3),
            torch.zeros(2, 13),
            r"images: float32 \[2, 4, 4, 3\].*; must be uint8 \[B, H, W, 3\]",
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 13), r"images: uint8 \[2, 3, 4, 4\]"),
        (torch.zeros(2, 0, 4, 3, dtype=torch.uint8), torch.zeros(2, 13), r"images: .* of one pixel or more"),
        (
            torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
            torch.zeros(3, 13),
            r"parameters: .*\[3, 13\].* float32 \[2, 13\]",
        ),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, 13).double(), r"parameters: float64"),
    ],
)
def test_other_arguments_are_refused(images: torch.Tensor, parameters: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment_views(images, parameters)
