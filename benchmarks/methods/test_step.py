"""The same steps under pytest-benchmark."""

import pytest

from benchmarks.methods.step import SETTINGS, Step


@pytest.mark.parametrize("name", SETTINGS)
def test_step(benchmark, name):
    """ViT-S/16 at 224 pixels, two images."""
    benchmark.group = "step"
    benchmark.pedantic(Step(name, 2), rounds=3, warmup_rounds=1)
