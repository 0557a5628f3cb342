"""attention: ours beside every kernel of PyTorch's, for a sparse student and a dense teacher."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitkiln.kernels import attention, use
from vitkiln.kernels.attention import backends

from .conftest import BATCH, DEVICE, DTYPE

OTHERS = ["cudnn", "flash_attention", "efficient_attention", *(["flash"] if backends.flash_installed() else [])]
PROVIDERS = ["reference", "compiled reference", "ours", *(OTHERS if DEVICE == "cuda" else [])]
HEADS = {384: 6, 768: 12}


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable], Callable]]:
    """The reference, what is chosen here, and each kernel of others by itself, packing included."""
    name = request.param
    if name.endswith("_attention"):
        backend = SDPBackend[name.upper()]
        yield lambda _: lambda qkv: by(backend, qkv)
    elif name == "ours":
        yield lambda function: function
    else:
        with use(name.removeprefix("compiled "), "attention"):
            yield torch.compile if name.startswith("compiled") else lambda function: function
        torch.compiler.reset()


def by(backend: SDPBackend, qkv: Tensor) -> Tensor:
    """PyTorch's, from packed projections and back."""
    packed = qkv.unflatten(-1, (3, HEADS[qkv.shape[-1] // 3], 64)).permute(2, 0, 3, 1, 4)
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*packed).transpose(1, 2).flatten(2)


def attend(qkv: Tensor) -> Tensor:
    """Heads of 64."""
    return attention(qkv, HEADS[qkv.shape[-1] // 3])


@pytest.fixture(params=[37, 50, 98, 197])
def qkv(request: pytest.FixtureRequest, setup: SimpleNamespace) -> Tensor:
    """A local crop, a sparse student, a half-dense one, and a dense teacher."""
    width = setup.tokens.shape[-1]
    return torch.randn(BATCH, request.param, 3 * width, device=DEVICE, dtype=DTYPE, requires_grad=True)


def test_forward(qkv, timed):
    """A teacher."""
    timed(attend, qkv.detach(), moved=qkv.numel() * qkv.element_size() * 4 // 3)


def test_forward_and_backward(qkv, timed):
    """A student."""
    timed(attend, qkv, moved=qkv.numel() * qkv.element_size() * 4)
