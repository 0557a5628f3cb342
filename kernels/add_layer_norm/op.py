"""`add_layer_norm`: schema, shapes, gradients and the choice between Triton and the reference."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.registration import autocast_dtype, operator
from . import reference

Four = tuple[Tensor, Tensor, Tensor, Tensor]


@operator("add_layer_norm")
def _forward(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None,
    drop_path: Tensor | None,
    dtype: torch.dtype,
) -> Four:
    """-> the sum (empty where there is no branch), its LayerNorm in dtype, mean and 1/deviation [rows] in fp32"""
    from . import kernel

    return kernel.forward(x, branch, weight, bias, eps, scale, drop_path, dtype)


@_forward.register_fake
def _(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None,
    drop_path: Tensor | None,
    dtype: torch.dtype,
) -> Four:
    total, rows = x.new_empty(0 if branch is None else x.shape), x.shape[:-1].numel()
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return total, x.new_empty(x.shape, dtype=dtype), mean, rstd


@operator("add_layer_norm_backward")
def _gradients(
    grad: Tensor,
    total_grad: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    scale: Tensor | None,
    drop_path: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    branch_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x and branch (empty without a type), and in fp32 [2 or 3, D] of weight, bias and scale"""
    from . import kernel

    return kernel.backward(grad, total_grad, total, branch, weight, scale, drop_path, mean, rstd, branch_dtype)


@_gradients.register_fake
def _(
    grad: Tensor,
    total_grad: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    scale: Tensor | None,
    drop_path: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    branch_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    branch_grad = total.new_empty(total.shape if branch_dtype else (0,), dtype=branch_dtype)
    return total.new_empty(total.shape), branch_grad, mean.new_empty(2 if scale is None else 3, len(weight))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Four) -> None:
    x, branch, weight, bias, _, scale, drop_path, _ = inputs
    total, _, mean, rstd = output
    ctx.dtypes = bias.dtype, None if branch is None else branch.dtype
    ctx.own = branch is not None and (scale is not None or drop_path is not None or branch.dtype != x.dtype)
    kept = x if branch is None else total, branch if scale is not None else None
    ctx.save_for_backward(*kept, weight, scale, drop_path, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd, *([total] if branch is None else []))
    ctx.set_materialize_grads(False)  # the last sum of an encoder is read by nothing but its norm


def _backward(ctx: Any, total_grad: Tensor | None, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    total, *others = ctx.saved_tensors
    weight, scale = others[1], others[2]
    bias_dtype, branch_dtype = ctx.dtypes
    grad = torch.zeros_like(total) if grad is None else grad
    x_grad, branch_grad, sums = _gradients(grad, total_grad, total, *others, branch_dtype if ctx.own else None)
    to_branch = None if branch_dtype is None else branch_grad if ctx.own else x_grad
    to_scale = None if scale is None else sums[2].to(scale.dtype)
    return x_grad, to_branch, sums[0].to(weight.dtype), sums[1].to(bias_dtype), None, to_scale, None, None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtypes: tuple[torch.dtype, ...], width: int, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot run for such arguments, or None."""
    if unavailable:
        return unavailable
    if torch.float64 in dtypes:
        return "the kernel adds in fp32, and an argument is float64"
    return f"the kernel takes up to 4096 channels, not {width}" if width > 4096 else None


def add_layer_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None = None,
    drop_path: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """sum = x + drop_path[b] * scale * branch, and (sum - mean) / sqrt(variance + eps) * weight + bias of each row

    The residual stream x [B, .., D] and the branch of its shape, weight, bias and scale (LayerScale) [D] of any
    floating types; drop_path [B] is a factor for each image, and has no gradient. The sum is
    taken in fp32 and rounded once to the type of x; what is normalised, in fp32, is the rounded sum; the norm
    has the type of autocast, or x's outside of it. Without a branch the sum is x itself. Gradients are the
    same in every run. ValueError where a shape or type does not fit.

    >>> x, one, zero = torch.tensor([[1.0, 5.0]]), torch.ones(2), torch.zeros(2)
    >>> [out.tolist() for out in add_layer_norm(x, x, one, zero, 0.0, scale=one * 2)]
    [[[3.0, 15.0]], [[-1.0, 1.0]]]
    """
    _check(x, branch, weight, bias, scale, drop_path)
    device = x.device.type
    dtypes = tuple(t.dtype for t in (x, branch, weight, bias, scale, drop_path) if t is not None)
    found = obstacle(dtypes, x.shape[-1], triton_obstacle(device))
    if choose("add_layer_norm", found, expected=device == "cuda") != "triton":
        return reference.add_layer_norm(x, branch, weight, bias, eps, scale, drop_path)
    dtype = autocast_dtype(x) or x.dtype
    total, out, _, _ = _forward(x, branch, weight, bias, eps, scale, drop_path, dtype)
    return x if branch is None else total, out


def _check(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, scale: Tensor | None, drop_path: Tensor | None
) -> None:
    if x.dim() < 2 or not x.dtype.is_floating_point or not x.shape[-1]:
        raise refusal("x", x, "a floating point tensor [B, .., D]")
    for name, tensor, shape in (
        ("branch", branch, x.shape),
        ("weight", weight, x.shape[-1:]),
        ("bias", bias, x.shape[-1:]),
        ("scale", scale, x.shape[-1:]),
        ("drop_path", drop_path, x.shape[:1]),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape or not tensor.dtype.is_floating_point:
            raise refusal(name, tensor, f"a floating point tensor {list(shape)}, as x is {list(x.shape)}")
        beside(name, tensor, "x", x)
        if branch is None and name in ("scale", "drop_path"):
            raise refusal(name, tensor, "None where branch is None")
