"""`place_tokens`: schema, shapes, gradients and the choice between Triton and PyTorch."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.registration import operator
from .._shared.rows import sum_rows
from . import reference


@operator("place_tokens")
def _forward(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor, implementation: str) -> Tensor:
    if implementation == "triton":
        from . import kernel

        return kernel.forward(tokens, position, keep, place)
    return reference.place_tokens(tokens, position, keep, place)


@_forward.register_fake
def _(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor, implementation: str) -> Tensor:
    return tokens.new_empty(*keep.shape, tokens.shape[2])


@operator("place_tokens_to_tokens")
def _to_tokens(grad: Tensor, keep: Tensor, patches: int, implementation: str) -> Tensor:
    """grad [B, K, D] -> gradient of tokens [B, P, D]"""
    if implementation == "triton":
        from . import kernel

        return kernel.to_tokens(grad, keep, patches)
    batch, _, width = grad.shape
    rows = keep + patches * torch.arange(batch, device=keep.device)[:, None]
    summed = sum_rows(grad.reshape(-1, width), rows.flatten(), batch * patches)
    return summed.to(grad.dtype).view(batch, patches, width)


@_to_tokens.register_fake
def _(grad: Tensor, keep: Tensor, patches: int, implementation: str) -> Tensor:
    return grad.new_empty(grad.shape[0], patches, grad.shape[2])


@operator("place_tokens_to_position")
def _to_position(grad: Tensor, place: Tensor, places: int, implementation: str) -> Tensor:
    """grad [B, K, D] -> gradient of the table [P, D], in fp32 or fp64"""
    if implementation == "triton":
        from . import kernel

        return kernel.to_position(grad, place, places)
    return sum_rows(grad.reshape(-1, grad.shape[2]), place.flatten(), places)


@_to_position.register_fake
def _(grad: Tensor, place: Tensor, places: int, implementation: str) -> Tensor:
    wide = torch.promote_types(grad.dtype, torch.float32)
    return grad.new_empty(places, grad.shape[2], dtype=wide)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, position, keep, place, ctx.implementation = inputs
    ctx.save_for_backward(keep, place)
    ctx.patches, ctx.places, ctx.dtype = tokens.shape[1], position.shape[0], position.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    keep, place = ctx.saved_tensors
    tokens = _to_tokens(grad, keep, ctx.patches, ctx.implementation) if ctx.needs_input_grad[0] else None
    position = None
    if ctx.needs_input_grad[1]:
        position = _to_position(grad, place, ctx.places, ctx.implementation).to(ctx.dtype)
    return tokens, position, None, None, None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtypes: tuple[torch.dtype, ...], unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot run for arguments of these types, or None."""
    if unavailable:
        return unavailable
    if torch.float64 in dtypes:
        return "the kernel adds in fp32, and an argument is float64"
    return None


def place_tokens(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor) -> Tensor:
    """out[b, k] = tokens[b, keep[b, k]] + position[place[b, k]]

    tokens [B, P, D] and position [P', D] of any floating types, keep and place int64 [B, K]; the result is
    [B, K, D] in the type of tokens, its sum taken in fp32 and rounded once. Autocast changes nothing. Both
    gradients are the same in every run, also where an index repeats. ValueError where a shape or type does
    not fit; an index out of range is not looked for on a GPU, where the Triton kernel answers it with NaN.

    >>> tokens, position = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[10.0], [20.0], [30.0]])
    >>> keep, place = torch.tensor([[2, 0]]), torch.tensor([[0, 0]])
    >>> place_tokens(tokens, position, keep, place).flatten().tolist()
    [13.0, 11.0]
    """
    _check(tokens, position, keep, place)
    device = tokens.device.type
    found = obstacle((tokens.dtype, position.dtype), triton_obstacle(device))
    implementation = choose("place_tokens", found, expected=device == "cuda")
    if implementation == "reference":
        return reference.place_tokens(tokens, position, keep, place)
    return _forward(tokens, position, keep, place, implementation)


def _check(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor) -> None:
    floating("tokens", tokens, "[B, P, D]")
    floating("position", position, "[P, D]")
    if position.shape[1] != tokens.shape[2]:
        raise refusal("position", position, f"as wide as tokens, [P, {tokens.shape[2]}]")
    if keep.dtype != torch.int64 or keep.dim() != 2 or keep.shape[0] != tokens.shape[0]:
        raise refusal("keep", keep, f"int64 [{tokens.shape[0]}, K]")
    if place.dtype != torch.int64 or place.shape != keep.shape:
        raise refusal("place", place, f"int64 of keep's shape {list(keep.shape)}")
    for name, tensor in (("position", position), ("keep", keep), ("place", place)):
        beside(name, tensor, "tokens", tokens)
