"""The fractal operators: one exact picture, one support, 64 pictures from their bits, candidates of the search."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vitkiln.kernels.fractals import draw_fractals, fractal_support, render_fractals, search_fractals, search_state

POINTS = 200_000


@pytest.fixture(scope="module")
def formula() -> tuple[Tensor, Tensor, Tensor]:
    """The candidate of the first 64 that fills most."""
    found = search_fractals(search_state(1), 64)
    best = int(found.lit.argmax())
    return found.maps[best : best + 1], found.probabilities[best : best + 1], torch.ones(1, 6, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _one_core() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rounds(benchmark: Any, work: Callable[[], object]) -> None:
    """As few as tell."""
    benchmark.pedantic(work, rounds=20, warmup_rounds=2)


@pytest.mark.parametrize("style", ["patch_gray", "patch_color", "point_gray"])
def test_exact_at_362_px(benchmark: Any, formula: tuple[Tensor, Tensor, Tensor], style: str) -> None:
    """Goal for patch_gray: 6.5 ms."""
    rounds(benchmark, lambda: render_fractals(*formula, torch.tensor([0]), 362, POINTS, style))


def test_support_at_362_px(benchmark: Any, formula: tuple[Tensor, Tensor, Tensor]) -> None:
    """Once for each formula and weight."""
    rounds(benchmark, lambda: fractal_support(*formula, 362, POINTS))


@pytest.mark.parametrize("style", ["patch_gray", "patch_color"])
def test_64_fast_pictures_at_224_px(benchmark: Any, formula: tuple[Tensor, Tensor, Tensor], style: str) -> None:
    """Goal for patch_gray: 12.8 ms, 5,000 a second."""
    bits = fractal_support(*formula, 224, POINTS, style).bits.expand(64, -1).contiguous()
    rounds(benchmark, lambda: draw_fractals(bits, torch.arange(64), 224, style))


def test_16_candidates_of_the_search(benchmark: Any) -> None:
    """On one core."""
    rounds(benchmark, lambda: search_fractals(search_state(1), 16))
