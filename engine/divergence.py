"""What to say when a loss is no longer a number: which tensor was the first to go bad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .vocabulary import Batch, Losses


def finite(losses: Losses) -> bool:
    """Whether the total is a number; waits for the device."""
    return bool(torch.isfinite(losses.total.detach()).item())


def bad_parameter(module: nn.Module) -> str | None:
    """The first parameter, in the model's order, that holds a value which is not finite."""
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
    return None


def explain(method: nn.Module, batch: Batch) -> str:
    """Name the first bad tensor: a parameter, else a module's output or a gradient when the batch is seen again."""
    if name := bad_parameter(method):
        return f"the first bad tensor is the parameter {name}"
    if name := bad_output(method, batch):
        return f"the first bad tensor is the output of {name}"
    if name := bad_gradient(method, batch):
        return f"the first bad tensor is the gradient of {name}"
    return "no parameter, output or gradient of this batch is bad when it is seen again"


@torch.no_grad()
def bad_output(method: nn.Module, batch: Batch) -> str | None:
    """The first module whose output is not finite when the batch is seen again."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in method.named_modules() if name]
    try:
        method(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def bad_gradient(method: nn.Module, batch: Batch) -> str | None:
    """The first parameter whose gradient is not finite when the batch is seen again."""
    method.zero_grad(set_to_none=True)
    method(batch).total.backward()
    for name, parameter in method.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return name
    return None
