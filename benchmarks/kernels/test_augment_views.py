"""Colours, blur and flips of views of 224 px on one core; on a GPU a batch, beside the reference.

Goal on a CPU: the two views of MoCo v3 in 1 ms an image.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu.augment_views import rows
from benchmarks.kernels.conftest import BATCH, DEVICE
from vitkiln.kernels import use
from vitkiln.kernels.augment_views import augment_views, layout

SIDE, IMAGES = 224, 32
ASKED = {
    "nothing": {},
    "mirrored": {"FLIP": 1},
    "brightness": {"JITTER": 1, "FACTORS": [0.7, 1, 1]},
    "contrast": {"JITTER": 1, "FACTORS": [1, 0.7, 1]},
    "saturation": {"JITTER": 1, "FACTORS": [1, 1, 0.7]},
    "hue": {"JITTER": 1, "HUE": 0.1},
    "gray": {"GRAY": 1},
    "blur of 1 pixel": {"SIGMA": 1.0},
    "blur of 1.8 pixels": {"SIGMA": 1.8},
    "solarised": {"THRESHOLD": 128},
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a worker has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(count: int) -> Tensor:
    """Waves under grain, as smooth as photographs."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = np.stack([127 + 100 * np.sin(x / 19 + c) * np.cos(y / (15 + 3 * c)) for c in range(3)], -1)
    grain = np.random.default_rng(0).normal(0, 15, (count, SIDE, SIDE, 3))
    return torch.from_numpy((waves + grain).clip(0, 255).astype(np.uint8)).to(DEVICE)


def asking(**values: object) -> Tensor:
    """One operation for every image."""
    table = np.repeat(layout.identity()[None], IMAGES, 0)
    for name, value in values.items():
        table[:, getattr(layout, name)] = value
    return torch.from_numpy(table)


def test_views_of_moco_v3(timed: Any) -> None:
    """A batch of both kinds."""
    views, table = images(BATCH), torch.from_numpy(rows(BATCH)).to(DEVICE)
    timed(augment_views, views, table, moved=2 * views.numel() + 4 * table.numel())


@pytest.mark.skipif(DEVICE == "cuda", reason="a goal of CPUs")
@pytest.mark.parametrize("implementation", ["torch", "native"])
@pytest.mark.usefixtures("one_thread")
def test_two_views_of_32_images_on_one_core(benchmark: Any, implementation: str) -> None:
    """Goal: 32 ms."""
    views, table = images(2 * IMAGES), torch.from_numpy(rows(2 * IMAGES))
    benchmark.extra_info.update(goal_ms=1.0 * IMAGES)
    with use("torch", "augment_views") if implementation == "torch" else nullcontext():
        benchmark.pedantic(lambda: augment_views(views, table), rounds=10, warmup_rounds=2)


@pytest.mark.skipif(DEVICE == "cuda", reason="a goal of CPUs")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.usefixtures("one_thread")
def test_one_operation_on_32_views_on_one_core(benchmark: Any, asked: str) -> None:
    """What each costs by itself."""
    views, table = images(IMAGES), asking(**ASKED[asked])
    benchmark.pedantic(lambda: augment_views(views, table), rounds=20, warmup_rounds=2)
