"""`patch_embed`: the kept pixels meet the weight in one product; pixels, not patches, are saved."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.registration import autocast_dtype, operator
from .._shared.rows import sum_rows
from . import reference
from .pixels import Patches

Floats = Sequence[float] | None


@operator("patch_embed")
def _forward(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor,
    prefix: Tensor,
    keep: Tensor | None,
    place: Tensor | None,
    mean: Floats,
    std: Floats,
    dtype: torch.dtype,
    implementation: str,
) -> Tensor:
    """The public function with the class tokens as prefix [T, D] -> [B, T + K, D] of the given type"""
    if implementation == "triton":
        from . import kernel

        return kernel.forward(images, weight, bias, position, prefix, keep, place, mean, std, dtype)
    wide = torch.promote_types(weight.dtype, torch.float32)
    patches = Patches.of(images, weight.shape[2], mean, std)
    matrix = patches.matrix(weight.to(wide))
    rows = position.to(wide) + matrix @ patches.spread(patches.scaling.rest, matrix)
    rows = rows if bias is None else rows + bias.to(wide)
    table = torch.cat([prefix.to(wide), rows]).to(dtype)  # [T + P, D], summed in fp32 and rounded once
    values = patches.gather(keep, len(prefix), dtype)
    chosen = _table_rows(images, values.shape[1], len(prefix), keep if place is None else place)
    # A prefix row is zeros times the weight: cheaper than copying the tokens to join them.
    scaled = matrix * patches.spread(patches.scaling.scale, matrix)
    out = torch.addmm(table.index_select(0, chosen), values.flatten(0, 1), scaled.to(dtype).T)
    return out.view(*values.shape[:2], weight.shape[0])


@_forward.register_fake
def _(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor,
    prefix: Tensor,
    keep: Tensor | None,
    place: Tensor | None,
    mean: Floats,
    std: Floats,
    dtype: torch.dtype,
    implementation: str,
) -> Tensor:
    kept = position.shape[0] if keep is None else keep.shape[1]
    return weight.new_empty(images.shape[0], prefix.shape[0] + kept, weight.shape[0], dtype=dtype)


def _table_rows(images: Tensor, length: int, prefix: int, place: Tensor | None) -> Tensor:
    """Which row of (prefix, positions) each token starts from: [B * (T + K)]"""
    if place is None:
        return torch.arange(length, device=images.device).repeat(len(images))
    return torch.cat([torch.arange(prefix, device=place.device).expand(len(place), -1), place + prefix], 1).flatten()


@operator("patch_embed_to_weight")
def _to_weight(
    tokens: Tensor,
    images: Tensor,
    keep: Tensor | None,
    sums: Tensor,
    size: int,
    mean: Floats,
    std: Floats,
    implementation: str,
) -> Tensor:
    """Gradient of the weight [D, 3, p, p] in fp32 or fp64, from that of the kept tokens [B, K, D] and its sum [D]"""
    if implementation == "triton":
        from . import kernel

        return kernel.to_weight(tokens, images, keep, sums, size, mean, std)
    patches = Patches.of(images, size, mean, std)
    matrix = (tokens.flatten(0, 1).T @ patches.gather(keep, 0, tokens.dtype).flatten(0, 1)).to(sums.dtype)
    matrix *= patches.spread(patches.scaling.scale, matrix)
    matrix.addr_(sums, patches.spread(patches.scaling.rest, matrix))
    return patches.weight(matrix)


@_to_weight.register_fake
def _(
    tokens: Tensor,
    images: Tensor,
    keep: Tensor | None,
    sums: Tensor,
    size: int,
    mean: Floats,
    std: Floats,
    implementation: str,
) -> Tensor:
    return sums.new_empty(tokens.shape[2], 3, size, size)


@operator("patch_embed_to_position")
def _to_position(grad: Tensor, place: Tensor, places: int, implementation: str) -> Tensor:
    """grad [B, T + K, D], place [B, K] -> gradient of the positions [P, D] in fp32 or fp64"""
    if implementation == "triton":
        from . import kernel

        return kernel.to_position(grad, place, places)
    tokens = grad[:, grad.shape[1] - place.shape[1] :]
    return sum_rows(tokens.flatten(0, 1), place.flatten(), places)


@_to_position.register_fake
def _(grad: Tensor, place: Tensor, places: int, implementation: str) -> Tensor:
    return grad.new_empty(places, grad.shape[2], dtype=torch.promote_types(grad.dtype, torch.float32))


@operator("patch_embed_to_images")
def _to_images(
    tokens: Tensor, images: Tensor, weight: Tensor, keep: Tensor | None, mean: Floats, std: Floats
) -> Tensor:
    """Gradient of floating point images, from that of the kept tokens [B, K, D]; no patch that was dropped
    has any
    """
    patches = Patches.of(images, weight.shape[2], mean, std)
    matrix = patches.matrix(weight.to(torch.promote_types(weight.dtype, torch.float32)))
    scaled = (matrix * patches.spread(patches.scaling.scale, matrix)).to(tokens.dtype)
    values = tokens.flatten(0, 1) @ scaled
    lines = sum_rows(values.view(-1, patches.lines.shape[1]), patches.index(keep).flatten(), len(patches.lines))
    return patches.image(lines, images.shape).to(images.dtype)


@_to_images.register_fake
def _(tokens: Tensor, images: Tensor, weight: Tensor, keep: Tensor | None, mean: Floats, std: Floats) -> Tensor:
    return images.new_empty(images.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, weight, bias, position, prefix, keep, place, ctx.mean, ctx.std, _, ctx.implementation = inputs
    ctx.save_for_backward(images, weight if images.requires_grad else None, keep, keep if place is None else place)
    ctx.size, ctx.places, ctx.prefix = weight.shape[2], len(position), len(prefix)
    ctx.dtypes = weight.dtype, weight.dtype if bias is None else bias.dtype, position.dtype, prefix.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    images, weight, keep, place = ctx.saved_tensors  # once: activation checkpointing gives them once
    needed, tokens = ctx.needs_input_grad, grad[:, ctx.prefix :]
    grads: list[Tensor | None] = [None] * len(needed)
    position = _position_gradient(ctx, grad, place) if needed[3] else None
    if needed[0]:
        grads[0] = _to_images(tokens, images, weight, keep, ctx.mean, ctx.std)
    if needed[1] or needed[2]:
        # Every token is told one place: the sum over the places is that over the tokens, and read already.
        sums = _sum(tokens, (0, 1)) if position is None else position.sum(0)
    if needed[2]:
        grads[2] = sums.to(ctx.dtypes[1])
    if needed[1]:
        scaling = (ctx.size, ctx.mean, ctx.std)
        grads[1] = _to_weight(tokens, images, keep, sums, *scaling, ctx.implementation).to(ctx.dtypes[0])
    if position is not None:
        grads[3] = position.to(ctx.dtypes[2])
    if needed[4]:
        grads[4] = _sum(grad[:, : ctx.prefix], (0,)).to(ctx.dtypes[3])
    return tuple(grads)


def _position_gradient(ctx: Any, grad: Tensor, place: Tensor | None) -> Tensor:
    if place is None:
        return _sum(grad[:, ctx.prefix :], (0,))
    return _to_position(grad, place, ctx.places, ctx.implementation)


def _sum(tensor: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    return tensor.sum(dimensions, dtype=torch.promote_types(tensor.dtype, torch.float32))


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtypes: Iterable[torch.dtype], unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot run for arguments of these types, or None."""
    if unavailable:
        return unavailable
    if torch.float64 in dtypes:
        return "the kernel adds in fp32, and an argument is float64"
    return None


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor,
    cls_token: Tensor,
    keep: Tensor | None = None,
    place: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """out[b] = cls_token rows, then weight . patch[keep[b, k]] + bias + position[place[b, k]]

    images uint8 or floating [B, H, W, 3] or [B, 3, H, W]; weight [D, 3, p, p] with H and W multiples of p;
    bias [D] or None; position [P, D] with P = H * W / p^2, patches counted along rows; cls_token [D] or [T,
    D], written as it is, positions included. keep and place int64 [B, K]; without keep every patch, without
    place its own position. uint8 is divided by 255; then, where mean and std (three numbers each) are given,
    both kinds are normalised. The result is [B, T + K, D] in autocast's type, else in weight's; bias and
    position are summed in fp32 and rounded once.

    Only the kept pixels are read, and they are read again for the gradient of the weight: no patch is saved.
    Gradients go to weight, bias, position and cls_token, and to floating point images that require one; none
    is computed that is not needed, and all are the same in every run. A uint8 pixel enters the product
    exactly, as its distance from a whole number near the mean, whose scale is in the weight. On a GPU an index
    out of range is not looked for: the Triton kernel answers it with NaN. ValueError where a shape, type or
    layout does not fit.

    >>> image, weight = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), torch.ones(1, 3, 1, 1)
    >>> position, keep = torch.tensor([[0.0], [10.0], [20.0], [30.0]]), torch.tensor([[2, 0]])
    >>> patch_embed(image, weight, None, position, torch.zeros(1), keep).flatten().tolist()
    [0.0, 23.0, 3.0]
    """
    _check_images(images, weight)
    _check_tables(images, weight, bias, position, cls_token)
    _check_plan(images, keep, place)
    mean, std = _check_normalisation(mean, std)
    dtype = autocast_dtype(weight) or weight.dtype
    device, tensors = images.device.type, (images, weight, bias, position, cls_token)
    found = obstacle([tensor.dtype for tensor in tensors if tensor is not None], triton_obstacle(device))
    implementation = choose("patch_embed", found, expected=device == "cuda")
    if implementation == "reference":
        with torch.autocast(images.device.type, enabled=False):
            out = reference.patch_embed(images, weight, bias, position, cls_token, keep, place, mean, std)
        return out.to(dtype)
    prefix = cls_token[None] if cls_token.dim() == 1 else cls_token
    return _forward(images, weight, bias, position, prefix, keep, place, mean, std, dtype, implementation)


def _check_images(images: Tensor, weight: Tensor) -> None:
    floating("weight", weight, "[D, 3, p, p]")
    if weight.shape[1] != 3 or weight.shape[2] != weight.shape[3]:
        raise refusal("weight", weight, "[D, 3, p, p]")
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.dtype.is_floating_point):
        raise refusal("images", images, "uint8 or floating point [B, H, W, 3] or [B, 3, H, W]")
    last = images.shape[-1] == 3
    if last == (images.shape[1] == 3):
        raise refusal("images", images, "[B, H, W, 3] or [B, 3, H, W], with one axis of size 3 among the two")
    height, width = images.shape[1:3] if last else images.shape[2:]
    if height % weight.shape[2] or width % weight.shape[2] or not height * width:
        raise refusal("images", images, f"of a height and width that are multiples of the patch size {weight.shape[2]}")


def _check_tables(images: Tensor, weight: Tensor, bias: Tensor | None, position: Tensor, cls_token: Tensor) -> None:
    width, patches = weight.shape[0], images.shape[1:].numel() // 3 // weight.shape[2] ** 2
    if not position.dtype.is_floating_point or position.shape != (patches, width):
        raise refusal("position", position, f"a floating point tensor [{patches}, {width}], a row a patch")
    if bias is not None and (not bias.dtype.is_floating_point or bias.shape != (width,)):
        raise refusal("bias", bias, f"a floating point tensor [{width}] or None")
    if not cls_token.dtype.is_floating_point or cls_token.dim() not in (1, 2) or cls_token.shape[-1] != width:
        raise refusal("cls_token", cls_token, f"a floating point tensor [{width}] or [T, {width}]")
    for name, tensor in (
        ("weight", weight),
        ("bias", bias),
        ("position", position),
        ("cls_token", cls_token),
    ):
        if tensor is not None:
            beside(name, tensor, "images", images)


def _check_plan(images: Tensor, keep: Tensor | None, place: Tensor | None) -> None:
    if keep is None and place is not None:
        raise refusal("place", place, "None where keep is None")
    for name, tensor in (("keep", keep), ("place", place)):
        if tensor is None:
            continue
        if tensor.dtype != torch.int64 or tensor.dim() != 2 or tensor.shape[0] != images.shape[0]:
            raise refusal(name, tensor, f"int64 [{images.shape[0]}, K]")
        beside(name, tensor, "images", images)
    if keep is not None and place is not None and keep.shape != place.shape:
        raise refusal("place", place, f"of keep's shape {list(keep.shape)}")


def _check_normalisation(mean: Floats, std: Floats) -> tuple[list[float] | None, list[float] | None]:
    if mean is None and std is None:
        return None, None
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != 3:
            raise refusal(name, values, "three numbers, as both mean and std are given or neither")
    if any(not value > 0 for value in std or ()):
        raise refusal("std", std, "three numbers greater than 0")
    return [float(value) for value in mean or ()], [float(value) for value in std or ()]
