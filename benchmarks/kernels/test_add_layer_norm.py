"""add_layer_norm: a block's residual connection and norm, in a bf16 stream and in an fp32 one."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import add_layer_norm

from .conftest import DEVICE, DTYPE

pytestmark = pytest.mark.parametrize("provider", ["reference", "compiled reference", "ours"], indirect=True)
STREAMS = {"narrow": DTYPE, "fp32": torch.float32}


def alone(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, *factors: Tensor) -> Tensor:
    """The norm alone."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        return add_layer_norm(x, branch, weight, bias, 1e-6, *factors)[1]


@pytest.mark.parametrize("stream", STREAMS)
def test_forward(setup, timed, stream):
    """A teacher."""
    x = setup.dense.detach().to(STREAMS[stream])
    moved = 2 * x.numel() * (x.element_size() + setup.dense.element_size())
    timed(alone, x, setup.dense.detach(), setup.bias.detach(), setup.bias.detach(), moved=moved)


@pytest.mark.parametrize("stream", STREAMS)
def test_forward_and_backward(setup, timed, stream):
    """A student."""
    x = setup.dense.detach().to(STREAMS[stream]).requires_grad_()
    moved = 4 * x.numel() * (x.element_size() + setup.dense.element_size())
    timed(alone, x, setup.dense, setup.bias, setup.bias, moved=moved)


def test_forward_and_backward_with_both_factors(setup, timed):
    """LayerScale and drop path, in an fp32 stream."""
    x, drop_path = setup.dense.detach().float().requires_grad_(), torch.ones(len(setup.dense), device=DEVICE)
    timed(alone, x, setup.dense, setup.bias, setup.bias, setup.bias, drop_path)
