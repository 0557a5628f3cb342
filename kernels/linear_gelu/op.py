"""`linear_gelu`: schema, shapes, gradients and the choice between Triton and the reference."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import choose, forced, triton_obstacle
from .._shared.registration import autocast_dtype, operator
from . import reference


@operator("linear_gelu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """x [R, D], weight [F, D], bias [F] -> the result [R, F], and what GELU was applied to, empty unless to keep"""
    from . import kernel

    return kernel.forward(x, weight, bias, keep)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    shape = x.shape[0], weight.shape[0]
    return x.new_empty(shape), x.new_empty(shape if keep else (0,))


@operator("linear_gelu_to_linear")
def _to_linear(grad: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """grad [R, F] -> gradient of what GELU was applied to [R, F], and its sum over rows [F] in fp32"""
    from . import kernel

    return kernel.backward(grad, linear)


@_to_linear.register_fake
def _(grad: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape), grad.new_empty(grad.shape[1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.bias_dtype = bias.dtype
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, linear = ctx.saved_tensors
    linear_grad, bias_grad = _to_linear(grad, linear)
    x_grad = linear_grad @ weight if ctx.needs_input_grad[0] else None
    weight_grad = linear_grad.T @ x if ctx.needs_input_grad[1] else None
    return x_grad, weight_grad, bias_grad.to(ctx.bias_dtype), None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtype: torch.dtype, unavailable: str | None, asked: bool) -> str | None:
    """Why the Triton kernel cannot or, unless it is asked for, should not run for x of this type, or None."""
    if unavailable:
        return unavailable
    if dtype == torch.float64:
        return "the kernel adds in fp32, and x is float64"
    return "in fp32 PyTorch's product is taken unless ours is asked for" if dtype.itemsize > 2 and not asked else None


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """out = u Phi(u) with u = x weight^T + bias, and Phi(u) = (1 + erf(u / sqrt(2))) / 2: the exact GELU

    x [.., D], weight [F, D] and bias [F] of any floating types; the result is [.., F], computed in the type of
    x, or in that of autocast; u is rounded before the GELU, so that its derivative is taken where it was.
    The Triton kernel saves x and u where a gradient is wanted, and nothing elsewhere; for fp32 it runs where it
    is asked for. ValueError where a shape or type does not fit.

    >>> out = linear_gelu(torch.tensor([[1.0]]), torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    >>> out.mul(1000).round().int().tolist()
    [[841, -159]]
    """
    _check(x, weight, bias)
    x = x.to(autocast_dtype(x) or x.dtype)
    unavailable = triton_obstacle(x.device.type)
    surprise = x.device.type == "cuda" and unavailable is not None
    found = obstacle(x.dtype, unavailable, forced("linear_gelu") == "triton")
    if choose("linear_gelu", found, expected=surprise) != "triton":
        return reference.linear_gelu(x, weight, bias)
    keep = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad)
    out, _ = _forward(x.reshape(-1, x.shape[-1]), weight.to(x.dtype), bias, keep)
    return out.view(*x.shape[:-1], len(weight))


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.dim() < 1 or not x.dtype.is_floating_point or not x.shape[-1]:
        raise refusal("x", x, "a floating point tensor [.., D]")
    if weight.dim() != 2 or weight.shape[1] != x.shape[-1] or not weight.dtype.is_floating_point:
        raise refusal("weight", weight, f"a floating point tensor [F, {x.shape[-1]}], as wide as x")
    if bias.shape != weight.shape[:1] or not bias.dtype.is_floating_point:
        raise refusal("bias", bias, f"a floating point tensor [{len(weight)}], as weight has rows")
    beside("weight", weight, "x", x)
    beside("bias", bias, "x", x)
