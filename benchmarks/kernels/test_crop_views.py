"""Crops of a photograph on one core, beside Pillow's of the same boxes; on a GPU a batch, beside the reference.

Goal on a CPU: a view of 224 px in at most half of Pillow's time, and 30 us for a call that has next to no pixels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.kernels.conftest import BATCH, DEVICE
from vitkiln.engine.data.draw import TRIES, crop_box
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.crop_views import crop_views

WIDTH, HEIGHT, BOXES = 500, 375, 32
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CASES = {  # size of the view, share of the picture's area
    "moco v3": (224, (0.08, 1.0)),
    "down": (224, (1.0, 1.0)),
    "up": (224, (0.05, 0.14)),
    "local": (96, (0.05, 0.25)),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a worker has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def boxes(count: int, scale: tuple[float, float]) -> Tensor:
    """Drawn as a worker draws them: float64 [count, 4]"""
    numbers = torch.rand(count, 4 * TRIES, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    view = View(scale=scale)
    return torch.tensor([crop_box(row, WIDTH, HEIGHT, view) for row in numbers], dtype=torch.float64)


def photograph() -> Image.Image:
    """Broad patches of colour under fine grain."""
    random = np.random.default_rng(0)
    patches = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    return Image.fromarray((pixels + random.normal(0, 6, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8))


def by_pillow(picture: Image.Image, size: int, interpolation: str) -> Callable[[Tensor], Any]:
    """Pictures to pictures; nothing is copied to or from a tensor."""
    return lambda box: picture.resize((size, size), FILTERS[interpolation], box=tuple(box[0].tolist()))


def by_us(picture: Image.Image, size: int, interpolation: str) -> Callable[[Tensor], Any]:
    """Tensors to tensors, one image a call."""
    image = torch.from_numpy(np.array(picture))
    return lambda box: crop_views([image], box, size, interpolation)


@pytest.mark.skipif(DEVICE == "cuda", reason="a goal of CPUs")
@pytest.mark.parametrize("provider", [by_pillow, by_us])
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("one_thread")
def test_32_crops_on_one_core(benchmark: Any, case: str, interpolation: str, provider: Any) -> None:
    """Goal: half of Pillow's time."""
    size, scale = CASES[case]
    cut, each = provider(photograph(), size, interpolation), boxes(BOXES, scale).split(1)
    benchmark.group = f"crop_views {case} {interpolation}"
    benchmark.pedantic(lambda: [cut(box) for box in each], rounds=20, warmup_rounds=2)


@pytest.mark.skipif(DEVICE == "cuda", reason="a goal of CPUs")
@pytest.mark.usefixtures("one_thread")
def test_a_call_by_itself(benchmark: Any) -> None:
    """Goal: 30 us."""
    image, box = torch.zeros(2, 2, 3, dtype=torch.uint8), torch.tensor([[0, 0, 2, 2]], dtype=torch.float64)
    benchmark.extra_info.update(goal_us=30)
    benchmark.pedantic(lambda: crop_views([image], box, 1), rounds=50, iterations=200, warmup_rounds=2)


def test_cropping(timed: Any) -> None:
    """A batch of photographs to 224 px, boxes on the host."""
    sides = boxes(BATCH, (0.08, 1.0))
    images = torch.randint(0, 256, (BATCH, HEIGHT, WIDTH, 3), dtype=torch.uint8, device=DEVICE)
    within = int(((sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1])).sum())
    timed(lambda images: crop_views(images, sides, 224), images, moved=3 * (within + BATCH * 224 * 224))
