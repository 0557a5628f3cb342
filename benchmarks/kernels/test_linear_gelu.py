"""linear_gelu: the first layer of a block's MLP, for a student and for a teacher, beside cuBLAS and a separate GELU."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import linear_gelu

from .conftest import DEVICE, DTYPE

pytestmark = pytest.mark.parametrize("provider", ["reference", "compiled reference", "ours"], indirect=True)


@pytest.fixture
def layer(setup: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer four times as wide as its input."""
    width, parameter = setup.dense.shape[2], {"device": DEVICE, "dtype": DTYPE, "requires_grad": True}
    return torch.randn(4 * width, width, **parameter), torch.randn(4 * width, **parameter)


def test_forward(setup, layer, timed):
    """A teacher: all patches, nothing kept."""
    moved = 5 * setup.dense.numel() * setup.dense.element_size()
    timed(linear_gelu, setup.dense.detach(), *(t.detach() for t in layer), moved=moved)


def test_forward_and_backward(setup, layer, timed):
    """A student: a quarter of the patches."""
    timed(linear_gelu, setup.tokens, *layer)
