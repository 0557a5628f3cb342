"""RandAugment at 224 px on one core: whole policies and every operation, beside Pillow's.

On a GPU: all at once, beside the reference there. Goal on a CPU: no operation is slower than Pillow's.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from benchmarks.kernels.conftest import BATCH, DEVICE, device_name
from vitkiln.engine.data.randaugment import FILTERS, OPERATIONS, Brush, RandAugment
from vitkiln.engine.vocabulary import View
from vitkiln.kernels import use
from vitkiln.kernels.rand_augment import layout, rand_augment

SIZE, FILL = 224, (124, 116, 104)
Row = NDArray[np.float64]
Operation = Callable[[Image.Image, Row], Image.Image]
BY_PILLOW: dict[int, Operation] = {  # of an image and its six numbers
    layout.NONE: lambda image, _: image,
    layout.AUTO_CONTRAST: lambda image, _: ImageOps.autocontrast(image),
    layout.EQUALIZE: lambda image, _: ImageOps.equalize(image),
    layout.INVERT: lambda image, _: ImageOps.invert(image),
    layout.POSTERIZE: lambda image, n: image.point([v & (256 - 2 ** int(8 - n[0])) for v in range(256)] * 3),
    layout.SOLARIZE: lambda image, n: ImageOps.solarize(image, int(n[0])),
    layout.SOLARIZE_ADD: lambda image, n: image.point(
        [min(255, v + int(n[0])) if v < 128 else v for v in range(256)] * 3
    ),
    layout.COLOR: lambda image, n: ImageEnhance.Color(image).enhance(n[0]),
    layout.CONTRAST: lambda image, n: ImageEnhance.Contrast(image).enhance(n[0]),
    layout.BRIGHTNESS: lambda image, n: ImageEnhance.Brightness(image).enhance(n[0]),
    layout.SHARPNESS: lambda image, n: ImageEnhance.Sharpness(image).enhance(n[0]),
    layout.MIRROR: lambda image, _: ImageOps.mirror(image),
    layout.UPSIDE_DOWN: lambda image, _: ImageOps.flip(image),
}
CASES = [
    (kind, interpolation)
    for kind, _ in OPERATIONS
    for interpolation in FILTERS
    if interpolation == "bilinear" or kind in layout.MOVES  # others read nothing between pixels
]


def by_pillow(images: Tensor, operations: Tensor, interpolation: str) -> list[Image.Image]:
    """One picture and one operation at a time, from pixels to pictures; Pillow's own pixels are not copied back."""
    made = []
    for pixels, rows in zip(images.numpy(), operations.numpy(), strict=True):
        image = Image.fromarray(pixels)
        for row in rows:
            kind, numbers = int(row[layout.KIND]), row[layout.NUMBERS].tolist()
            if kind in layout.MOVES:
                how = {"resample": FILTERS[interpolation], "fillcolor": FILL}
                image = image.transform(image.size, Image.Transform.AFFINE, numbers, **how)
            else:
                image = BY_PILLOW[kind](image, numbers)
        made.append(image)
    return made


def ours(images: Tensor, operations: Tensor, interpolation: str) -> Tensor:
    """All at once."""
    return rand_augment(images, operations, FILL, interpolation)


def plainly(images: Tensor, operations: Tensor, interpolation: str) -> Tensor:
    """All at once in PyTorch."""
    with use("torch", "rand_augment"):
        return ours(images, operations, interpolation)


PROVIDERS = {"reference": plainly, "ours": ours} if DEVICE == "cuda" else {"pillow": by_pillow, "ours": ours}


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images() -> Tensor:
    """As smooth as photographs, and as grainy."""
    numbers = np.random.default_rng(0)
    coarse = [Image.fromarray(numbers.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(BATCH)]
    large = np.stack([np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in coarse])
    grain = numbers.normal(0, 8, (SIZE, SIZE, 1))
    return torch.from_numpy((large + grain).clip(0, 255).astype(np.uint8)).to(DEVICE)


def measure(benchmark: Any, provider: str, *given: Any) -> None:
    """Of a batch; the number of images is kept beside it."""

    def once() -> None:
        PROVIDERS[provider](*given)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info.update(device=device_name(), torch=torch.__version__, batch=len(given[0]))
    benchmark.pedantic(once, rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_policy(benchmark: Any, images: Tensor, interpolation: str, provider: str) -> None:
    """Two layers, each done half of the time, and mirroring."""
    augment = RandAugment(View(randaugment="rand-m9-mstd0.5-inc1", interpolation=interpolation, fill=FILL))
    draw = np.random.default_rng(0)
    tables = [
        augment.operations(draw.random(augment.numbers).tolist(), (number % 2 == 0, False), SIZE, SIZE)
        for number in range(BATCH)
    ]
    benchmark.group = f"policy {interpolation}"
    measure(benchmark, provider, images, torch.from_numpy(np.stack(tables)).to(DEVICE), interpolation)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("kind", "interpolation"), CASES)
def test_an_operation(benchmark: Any, images: Tensor, kind: int, interpolation: str, provider: str) -> None:
    """At nine tenths of its range."""
    numbers = dict(OPERATIONS)[kind](Brush(9.0, 1.0, SIZE, SIZE))
    operations = torch.from_numpy(layout.row(kind, *numbers)).expand(BATCH, 1, -1).contiguous().to(DEVICE)
    benchmark.group = f"operation {kind} {interpolation}"
    measure(benchmark, provider, images, operations, interpolation)
