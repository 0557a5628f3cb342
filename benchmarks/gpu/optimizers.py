"""AdamW and the teacher's average over the weights of ViT-S and ViT-B, with MoCo v3's heads."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vitkiln.kernels import adamw_ema_

from .work import Place, Provider, Work

LR, DECAY, BETAS, EPS, PULL = 1e-3, 0.1, (0.9, 0.999), 1e-8, 0.004
ROW = [LR, DECAY, 1 - BETAS[0], 1 - BETAS[1], EPS, 1 - BETAS[0], 1 - BETAS[1], 1.0, PULL, 0.0]


def works(place: Place) -> Iterator[Work]:
    """45 M and 110 M weights, in tensors of about 300,000."""
    for millions in (45, 110)[: place.size(2, 1)]:
        yield work(place, place.size(150 * millions // 45, 2), place.size(300_000, 30))


def work(place: Place, tensors: int, size: int) -> Work:
    """Bytes: weight, moments and teacher read and written, the gradient read. Every call is a first step."""

    def inputs() -> tuple[Tensor, ...]:
        weight, grad, teacher = (torch.randn(tensors, size, device=place.device) for _ in range(3))
        return weight, grad, teacher, torch.zeros_like(weight), torch.zeros_like(weight)

    def ours(weight: Tensor, grad: Tensor, teacher: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        rows = [list(x) for x in (weight, grad, first, second)]
        adamw_ema_(*rows, torch.tensor([ROW], device=place.device), (), list(teacher))
        return weight, teacher

    def torchs(weight: Tensor, grad: Tensor, teacher: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        rows, steps = [list(x) for x in (weight, grad, first, second)], [torch.zeros((), device=place.device)] * tensors
        settings: dict[str, Any] = {"lr": LR, "beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": DECAY, "eps": EPS}
        steps = [step.clone().add_(1) for step in steps]
        torch._fused_adamw_(*rows, [], steps, amsgrad=False, maximize=False, **settings)
        torch._foreach_lerp_(list(teacher), rows[0], PULL)
        return weight, teacher

    untouched: list[Tensor] = []
    return Work(
        "adamw_ema_",
        "forward",
        {"tensors": tensors, "each": size},
        inputs,
        {"fused AdamW, lerp": in_place(torchs, untouched), "ours": in_place(ours, untouched)},
        moved=36 * tensors * size,
        tolerance=1e-5,
        enqueued=False,
    )


def in_place(step: Callable[..., Any], untouched: list[Tensor]) -> Provider:
    """Of a step that changes its arguments: the first call, whose results are compared, is on what all began with."""

    def make() -> Callable[..., Any]:
        calls = itertools.count()

        def call(*given: Tensor) -> Any:
            if next(calls):
                return step(*given)
            untouched[:] = untouched or [tensor.clone() for tensor in given]
            return step(*(tensor.clone() for tensor in untouched))

        return call

    return make
