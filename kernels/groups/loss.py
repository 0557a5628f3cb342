"""`masked_l1`: targets are made from the images a few at a time, and made again for the gradient."""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, forced, triton_obstacle
from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from . import reference
from .bitmap import pixels
from .corrupt import check_mask, check_scaling

VALUES_AT_ONCE = 1 << 19  # 2 MB of targets in fp32, which a processor's cache holds: as many images as fit
NATIVE = (torch.uint8, torch.float32)


@operator("masked_l1")
def _forward(
    prediction: Tensor, images: Tensor, mask: Tensor, mean: list[float], std: list[float], implementation: str
) -> tuple[Tensor, Tensor]:
    """prediction [B, P, C], images [B, H, W, 3], mask of either kind -> loss, and how many values count"""
    if implementation == "triton":
        from . import kernel

        total, count = kernel.sum_errors(prediction, images, mask, mean, std)
    elif runs_native(implementation, prediction, images):
        run = getattr(torch.ops, NAMESPACE).groups_l1
        total, count = run(*flat(prediction, images, mask), torch.tensor([*mean, *std]), torch.get_num_threads())
    else:
        total, count = prediction.new_zeros((), dtype=_wide(prediction)), mask.new_zeros((), dtype=torch.int64)
        for _, error, counted in _errors(prediction, images, mask, mean, std):
            total += error.abs_().masked_fill_(~counted, 0).sum()
            count += counted.sum(dtype=torch.int64)
    return total / count.clamp(min=1), count


@_forward.register_fake
def _(
    prediction: Tensor, images: Tensor, mask: Tensor, mean: list[float], std: list[float], implementation: str
) -> tuple[Tensor, Tensor]:
    return prediction.new_empty((), dtype=_wide(prediction)), prediction.new_empty((), dtype=torch.int64)


@operator("masked_l1_backward")
def _gradient(
    factor: Tensor,
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    implementation: str,
) -> Tensor:
    """factor * mask * sign(prediction - target), of the type of the prediction"""
    if implementation == "triton":
        from . import kernel

        return kernel.gradient(factor, prediction, images, mask, mean, std)
    if runs_native(implementation, prediction, images):
        run = getattr(torch.ops, NAMESPACE).groups_l1_gradient
        scaling, threads = torch.tensor([*mean, *std]), torch.get_num_threads()
        found: Tensor = run(factor.contiguous(), *flat(prediction, images, mask), scaling, threads)
        return found
    out = torch.empty_like(prediction, memory_format=torch.contiguous_format)
    for some, error, counted in _errors(prediction, images, mask, mean, std):
        out[some] = error.sign_().mul_(factor).masked_fill_(~counted, 0)
    return out


@_gradient.register_fake
def _(
    factor: Tensor,
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    implementation: str,
) -> Tensor:
    return prediction.new_empty(prediction.shape)


def runs_native(implementation: str, prediction: Tensor, images: Tensor) -> bool:
    """Whether csrc answers."""
    fits = prediction.dtype == torch.float32 and images.dtype in NATIVE
    return implementation == "native" and fits and native("groups")


def flat(prediction: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As csrc and Triton read them."""
    return prediction.contiguous(), images.contiguous(), mask.contiguous()


def _errors(
    prediction: Tensor, images: Tensor, mask: Tensor, mean: list[float], std: list[float]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """prediction - target of some images at a time, in fp32 or fp64, and which of them count: [some, P, C]"""
    center, scale = (prediction.new_tensor(values, dtype=_wide(prediction)) for values in (mean, std))
    size = isqrt(prediction.shape[2] // 3)
    step = max(1, VALUES_AT_ONCE // max(1, prediction[:1].numel()))
    for start in range(0, len(images), step):
        some = slice(start, start + step)
        values = images[some].to(center.dtype)
        if images.dtype == torch.uint8:
            values = values / 255
        target = reference.patches(values.sub(center).div_(scale), size)
        counted = pixels(mask[some], images.shape[2])[..., None].expand(values.shape)
        yield some, target.neg_().add_(prediction[some]), reference.patches(counted, size)


def _wide(prediction: Tensor) -> torch.dtype:
    return torch.promote_types(prediction.dtype, torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    prediction, images, mask, *ctx.settings = inputs
    ctx.save_for_backward(prediction, images, mask, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    prediction, images, mask, count = ctx.saved_tensors
    factor = grad / count.clamp(min=1)
    return _gradient(factor, prediction, images, mask, *ctx.settings), None, None, None, None, None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(prediction: Tensor, images: Tensor, unavailable: str | None) -> str | None:
    """Why the Triton kernels cannot compare these, or None."""
    if unavailable:
        return unavailable
    return "the kernels have no float64" if torch.float64 in (prediction.dtype, images.dtype) else None


def masked_l1(
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """loss = sum over covered pixels and channels of |prediction - (x - mean) / std| / (3 * covered pixels)

    prediction [B, P, p * p * 3] of any floating type, values of a patch in the order (row, column, channel);
    images [B, H, W, 3] uint8, then divided by 255, or floating; mask bool [B, H, W] or a bitmap of group_mask. The mean
    is over the covered pixels of the whole batch, so images with more of them weigh more, as published. mean and std
    are three numbers each; without them targets are the pixels. An fp32 scalar (fp64 for float64 predictions),
    computed in fp32 under autocast too; the gradient is 0 where the error is, images have none. Targets exist for some
    images at a time. No pixel covered: loss 0. ValueError where a shape or type does not fit.

    GMML's loss: Atito et al., arXiv:2205.14986.

    >>> images, mask = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3), torch.eye(2, dtype=torch.bool)[None]
    >>> round(masked_l1(torch.zeros(1, 1, 12), images, mask).item() * 255, 3)  # the mean of 0, 1, 2 and 9, 10, 11
    5.5
    """
    _check(prediction, images, mask)
    check_scaling(mean, std)
    images, device = images.detach(), prediction.device.type
    found = obstacle(prediction, images, triton_obstacle(device))
    implementation = choose("groups", found, expected=device == "cuda")
    if implementation == "reference":
        with torch.autocast(device, enabled=False):
            return reference.masked_l1(prediction, images, pixels(mask, images.shape[2]), mean, std)
    if implementation == "torch" and device == "cpu" and forced("groups") != "torch":
        implementation = "native"
    center, scale = [float(x) for x in mean or (0, 0, 0)], [float(x) for x in std or (1, 1, 1)]
    return _forward(prediction, images, mask, center, scale, implementation)[0]


def _check(prediction: Tensor, images: Tensor, mask: Tensor) -> None:
    floating("prediction", prediction, "[B, P, p * p * 3]")
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise refusal("images", images, "uint8 or floating point")
    if images.dim() != 4 or images.shape[0] != prediction.shape[0] or images.shape[3] != 3:
        raise refusal("images", images, f"[{prediction.shape[0]}, H, W, 3]")
    check_mask(mask, images)
    beside("images", images, "prediction", prediction)
    size = isqrt(prediction.shape[2] // 3)
    if size == 0 or 3 * size * size != prediction.shape[2]:
        raise refusal("prediction", prediction, "[B, P, p * p * 3] for some p")
    height, width = images.shape[1:3]
    if height % size or width % size:
        raise refusal("images", images, f"of a height and a width that patches of {size} divide")
    if prediction.shape[1] != height * width // size**2:
        raise refusal(
            "prediction", prediction, f"of {height * width // size**2} patches, as the images have of size {size}"
        )
