"""What one measurement is: a function of tensors that several providers compute, on inputs made for the occasion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitkiln.kernels import use

Provider = Callable[[], Callable[..., Any]]  # makes, when its turn comes, the function that is timed


@dataclass(frozen=True)
class Place:
    """Where it runs: at full size on a GPU in bf16, or tiny on a CPU in fp32, where nothing is timed for real."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool

    def size(self, full: int, tiny: int) -> int:
        """A dimension."""
        return tiny if self.tiny else full

    def random(self, *shape: int, gradient: bool = False) -> Tensor:
        """Normal numbers in the type that is measured."""
        return torch.randn(shape, device=self.device, dtype=self.dtype, requires_grad=gradient)

    def compiled(self, function: Callable[..., Any]) -> Provider:
        """torch.compile for these very shapes; a dry run traces alone, and generates no code."""
        return lambda: torch.compile(function, dynamic=False, backend="eager" if self.tiny else "inductor")


@dataclass(frozen=True)
class Work:
    """`inputs` makes a fresh set; the first of `providers` is what the others are compared with."""

    name: str
    mode: str  # forward, or forward+backward
    shape: dict[str, int]
    inputs: Callable[[], tuple[Any, ...]]
    providers: dict[str, Provider]
    moved: int = 0  # the fewest bytes through memory
    flops: int = 0
    tolerance: float = 2e-2  # norm of the difference, relative, in bf16; 0 where integers must be equal
    incomparable: tuple[str, ...] = ()  # providers that compute something else, to compare times with
    enqueued: bool = True  # launches are sent ahead, so that the device alone is timed
    fewest: int = 20  # repetitions
    images: int = 0  # that one call handles

    def call(self, function: Callable[..., Any], given: tuple[Any, ...]) -> list[Tensor]:
        """Results, then, where the mode says so, the gradients of every input that requires one."""
        if self.mode != "forward+backward":
            with torch.no_grad() if self.mode == "forward" else torch.enable_grad():
                return listed(function(*given))
        out = [tensor for tensor in listed(function(*given)) if tensor.requires_grad]
        leaves = [tensor for tensor in given if isinstance(tensor, Tensor) and tensor.requires_grad]
        grads = torch.autograd.grad(out, leaves, upstream(out), allow_unused=True)
        return [*(tensor.detach() for tensor in out), *(grad for grad in grads if grad is not None)]


def listed(result: Any) -> list[Tensor]:
    """One tensor or several."""
    return [result] if isinstance(result, Tensor) else list(result)


_upstream: dict[tuple[Any, ...], Tensor] = {}


def upstream(out: list[Tensor]) -> list[Tensor]:
    """Random gradients, made once for each shape so that making them is not timed."""
    made = []
    for tensor in out:
        key = (tensor.shape, tensor.dtype, tensor.device)
        if key not in _upstream:
            _upstream[key] = torch.randn(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        made.append(_upstream[key])
    return made


def forget() -> None:
    """Let go of the gradients of a work that is done."""
    _upstream.clear()


def plain(function: Callable[..., Any]) -> Provider:
    """A function as it is."""
    return lambda: function


def forcing(implementation: str, room: str, function: Callable[..., Any]) -> Provider:
    """A function whose operator runs in the implementation that is named."""

    def call(*given: Any) -> Any:
        with use(implementation, room):
            return function(*given)

    return lambda: call


def difference(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest relative norm over pairs of results; for integers, the share that is not equal; inf for a NaN."""
    return max((_apart(*pair) for pair in zip(actual, expected, strict=True)), default=0.0)


def _apart(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return (actual != expected).sum().item() / max(1, expected.numel())
    norm = torch.linalg.vector_norm
    apart = norm((actual.float() - expected.float()).flatten()) / norm(expected.float().flatten()).clamp(min=1e-30)
    return apart.item() if apart.isfinite() else float("inf")
