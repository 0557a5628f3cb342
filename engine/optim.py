"""Optimisers as the papers set them: which parameters decay, what the rate is, how gradients are clipped.

What changes from step to step is filled into tensors before a step and read from them in it, so that a step recorded as
a CUDA graph reads what is true when it is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from .errors import MissingBackend
from .one_pass import ONE_PASS, OnePass, follow, usable
from .schedule import cosine_inclusive
from .settings import Optim


class LARS(torch.optim.Optimizer):
    """w -= lr * mu, mu = momentum * mu + trust * |w| / |g'| * g', g' = g + weight_decay * w.

    You et al., arXiv:1708.03888, as MoCo v3 and MAE use it: vectors (ndim < 2) neither decay nor adapt, and the ratio
    is 1 where either norm is 0.
    """

    def __init__(self, params: Any, lr: float | Tensor, weight_decay: float | Tensor, momentum: float, trust: float):
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


def build(
    settings: Optim, module: nn.Module, lr: float, device: torch.device, encoder: nn.Module | None = None
) -> torch.optim.Optimizer:
    """The optimiser over everything that learns. Its rates are tensors on the device, filled before every step.

    `encoder`, a part of the module, is where `layer_decay` applies.
    """
    depth_left = blocks_above(encoder) if encoder is not None and settings.layer_decay < 1 else {}
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            kind = settings.decay_1d or parameter.ndim >= 2, depth_left.get(parameter, 0)
            groups.setdefault(kind, group_of(settings, *kind, lr, device))["params"].append(parameter)
    ordered = [groups[kind] for kind in sorted(groups, reverse=True)]
    backend = chosen(settings, device)
    if backend == "one_pass":
        return ONE_PASS[settings.name](ordered, settings)
    if backend == "apex":
        return nvidias()(ordered, lr=lr, betas=settings.betas, capturable=True)
    if settings.name == "lars":
        return LARS(ordered, lr, settings.weight_decay, settings.momentum, settings.trust)
    if settings.name == "sgd":
        return torch.optim.SGD(ordered, lr=lr, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(ordered, lr=lr, betas=settings.betas, fused=True)


def chosen(settings: Optim, device: torch.device) -> str:
    """Who takes the step: one_pass, torch or apex."""
    if settings.backend == "auto":
        return "one_pass" if usable(settings.name, device) else "torch"
    return settings.backend


def decays_in_tensors(settings: Optim, device: torch.device) -> bool:
    """Whether the optimiser reads its weight decay from the device; PyTorch's own and NVIDIA's take a number."""
    return chosen(settings, device) == "one_pass" or settings.name == "lars"


def nvidias() -> Any:
    """NVIDIA's FusedAdam, whose step is AdamW's."""
    try:
        import_module("amp_C")  # which PyPI's apex, another package, has not
        return import_module("apex.optimizers").FusedAdam
    except ImportError:
        text = "NVIDIA's apex is not installed with its CUDA kernels (github.com/NVIDIA/apex, a source build)"
        raise MissingBackend(f"optim.backend=apex: {text}; auto does without it") from None


def group_of(settings: Optim, decays: bool, above: int, lr: float, device: torch.device) -> dict[str, Any]:
    """Parameters that share a rate and a decay, none so far."""
    factor, decay = settings.layer_decay**above, settings.weight_decay if decays else 0.0
    return {
        "params": [],
        "lr": torch.tensor(lr * factor, device=device),
        "rate_factor": factor,
        "decays": decays,
        "weight_decay": torch.tensor(decay, device=device) if decays_in_tensors(settings, device) else decay,
    }


def blocks_above(encoder: nn.Module) -> Mapping[nn.Parameter, int]:
    """How many layers follow each parameter of an encoder, as BEiT and MAE count: depth + 1 for tokens and patches,
    depth - i for block i, 0 for the last norm. What lies between two blocks counts with the first of them."""
    blocks = [*cast("Iterable[nn.Module]", encoder.blocks)]
    depth = len(blocks)
    within = {parameter: depth - i for i, block in enumerate(blocks) for parameter in block.parameters()}
    found, here = {}, depth + 1
    for name, parameter in encoder.named_parameters():
        here = within.get(parameter, here)
        found[parameter] = 0 if name.startswith("norm.") else here
    return found


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Fill the rate in, without a word to the device's queue that waits."""
    for group in optimizer.param_groups:
        group["lr"].fill_(rate * group["rate_factor"])


def set_decay(optimizer: torch.optim.Optimizer, settings: Optim, position: float, planned: float) -> None:
    """Weight decay at a position on the schedule, where it changes at all (DINO, arXiv:2104.14294, appendix)."""
    if settings.final_weight_decay is None:
        return
    decay = cosine_inclusive(position, planned, 0, settings.weight_decay, settings.final_weight_decay)
    for group in optimizer.param_groups:
        if not group["decays"]:
            continue
        if isinstance(group["weight_decay"], Tensor):
            group["weight_decay"].fill_(decay)
        else:
            group["weight_decay"] = decay


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Those that there are, in the optimiser's order."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def clip(grads: list[Tensor], settings: Optim) -> tuple[Tensor, Tensor | None]:
    """The norm of all gradients, and the factor that bounds each where the settings say so, for all or for each."""
    norms = torch.stack(torch._foreach_norm(grads))
    total = norms.norm()
    if settings.clip is None:
        return total, None
    each = total.expand(len(grads)) if settings.clip_per == "model" else norms
    return total, (settings.clip / (each + 1e-6)).clamp(max=1.0)


def step(
    optimizer: torch.optim.Optimizer,
    settings: Optim,
    following: Mapping[Tensor, Tensor] = MappingProxyType({}),
    pull: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Clip, move the weights, and let teachers follow: `following` leads from a weight to its teacher's.

    Where the gradient is not finite the weights stay good. Returns the gradient's norm and that flag, 0 or 1. Nothing
    waits for the device: the flag is the one by which PyTorch's fused optimisers skip an overflow.
    """
    grads = gradients(optimizer)
    norm, factors = clip(grads, settings)
    optimizer.found_inf = flag = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
    if isinstance(optimizer, OnePass):
        optimizer.factors, optimizer.following, optimizer.pull = factors, following, pull
        optimizer.step()
    else:
        apart(optimizer, grads, factors, following, pull)
    optimizer.zero_grad(set_to_none=True)
    return norm, flag


@torch.no_grad()
def apart(
    optimizer: torch.optim.Optimizer,
    grads: list[Tensor],
    factors: Tensor | None,
    following: Mapping[Tensor, Tensor],
    pull: Tensor | float,
) -> None:
    """The same in three passes."""
    if factors is not None:
        torch._foreach_mul_(grads, list(factors.unbind()))
    optimizer.step()
    follow(following, pull)
