"""Optimisers as the papers set them: which parameters decay, what the rate is, how gradients are clipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .settings import Optim


class LARS(torch.optim.Optimizer):
    """w -= lr * mu, mu = momentum * mu + trust * |w| / |g'| * g', g' = g + weight_decay * w.

    You et al., arXiv:1708.03888, as MoCo v3 and MAE use it: vectors (ndim < 2) neither decay nor adapt, and the ratio
    is 1 where either norm is 0.
    """

    def __init__(self, params: Any, lr: float | Tensor, weight_decay: float, momentum: float, trust: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, group)

    def move(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        skip = getattr(self, "found_inf", parameter.new_zeros(())) > 0
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if parameter.ndim > 1:
            grad = grad + group["weight_decay"] * parameter
            weight_norm, grad_norm = parameter.norm(), grad.norm()
            ratio = group["trust"] * weight_norm / grad_norm
            grad = grad * torch.where((weight_norm > 0) & (grad_norm > 0), ratio, torch.ones_like(ratio))
        moved = state["momentum_buffer"] * group["momentum"] + grad
        state["momentum_buffer"].copy_(torch.where(skip, state["momentum_buffer"], moved))
        parameter.sub_(torch.where(skip, 0.0, group["lr"] * state["momentum_buffer"]))


def effective_lr(settings: Optim, batch_size: int) -> float:
    """The linear rule: lr * batch_size / lr_scale, or lr itself where there is no scale."""
    return settings.lr * batch_size / settings.lr_scale if settings.lr_scale else settings.lr


def build(settings: Optim, module: nn.Module, lr: float, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser over everything that learns. Its rate is a tensor on the device, filled before every step."""
    rate = torch.tensor(lr, device=device)
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [{"params": learned, "weight_decay": settings.weight_decay}]
    if not settings.decay_1d:
        vectors = [parameter for parameter in learned if parameter.ndim < 2]
        groups[0]["params"] = [parameter for parameter in learned if parameter.ndim >= 2]
        groups.append({"params": vectors, "weight_decay": 0.0})
    if settings.name == "lars":
        return LARS(groups, rate, settings.weight_decay, settings.momentum, settings.trust)
    return torch.optim.AdamW(groups, lr=rate, betas=settings.betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Fill the rate in, without a word to the device's queue that waits."""
    for group in optimizer.param_groups:
        group["lr"].fill_(rate)


def clip(parameters: Iterable[Tensor], settings: Optim) -> Tensor:
    """The gradient's norm over the whole model; bounded where the settings say so, for the model or for each tensor."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads))
    total = norms.norm()
    if settings.clip is not None:
        each = total.expand(len(grads)) if settings.clip_per == "model" else norms
        torch._foreach_mul_(grads, list((settings.clip / (each + 1e-6)).clamp(max=1.0).unbind()))
    return total


def step(optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
    """Move the weights, unless the gradient is not finite: then leave them good. Returns that flag, 0 or 1.

    Nothing waits for the device: the flag is the one by which PyTorch's fused optimisers skip an overflow.
    """
    flag = (~torch.isfinite(norm)).float()
    optimizer.found_inf = flag  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return flag
