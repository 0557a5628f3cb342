"""What every operator's tests compare with, and how closely."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

TOLERANCES = {  # largest norm of the difference, relative to the norm of what is expected
    torch.float64: 1e-12,
    torch.float32: 5e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}


@pytest.fixture
def close() -> Callable[..., None]:
    def check(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
        assert actual.shape == expected.shape
        difference = torch.linalg.vector_norm(actual.double() - expected.double())
        scale = torch.linalg.vector_norm(expected.double())
        assert difference <= TOLERANCES[dtype or actual.dtype] * scale + 1e-30, (difference / scale).item()

    return check


@pytest.fixture
def gradients() -> Callable[..., tuple[Tensor, ...]]:
    """The result of a function, then the gradients of its arguments for a random upstream gradient."""

    def compute(function: Callable[..., Any], *arguments: Any, **settings: Any) -> tuple[Tensor, ...]:
        leaves = [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments]
        out = function(*leaves, **settings)
        out = out[0] if isinstance(out, tuple) else out
        torch.manual_seed(1)
        upstream = torch.randn(out.shape, dtype=torch.float64).to(out)
        wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        return (out.detach(), *torch.autograd.grad(out, wanted, upstream))

    return compute


class Called(TorchDispatchMode):
    """Notes the name of every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket._qualified_op_name.partition("::")[2])
        return func(*args, **(kwargs or {}))


@pytest.fixture
def called() -> Callable[[], Any]:
    @contextmanager
    def watch() -> Iterator[list[str]]:
        mode = Called()
        with mode:
            yield mode.names

    return watch
