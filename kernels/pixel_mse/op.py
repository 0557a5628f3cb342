"""`normalized_pixel_mse`: targets are made from the images a few at a time, and made again for the gradient."""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.registration import operator
from . import reference

VALUES_AT_ONCE = 1 << 22  # 16 MB of targets in fp32: the images of a chunk are as many as fit
EPSILON = 1e-6  # as published, beside the variance


@operator("normalized_pixel_mse")
def _forward(
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    normalize: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """prediction [B, P, C], images [B, H, W, 3], mask [B, P] -> loss, and how many patches count but at least 1"""
    if implementation == "triton":
        from . import kernel

        return kernel.forward(prediction, images, mask, mean, std, normalize)
    count = mask.sum().clamp(min=1).to(_wide(prediction))
    total = prediction.new_zeros((), dtype=_wide(prediction))
    for some, error in _errors(prediction, images, mean, std, normalize):
        total += (torch.linalg.vecdot(error, error) * mask[some]).sum()
    return total / (count * prediction.shape[2]), count


@_forward.register_fake
def _(
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    normalize: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    wide = _wide(prediction)
    return prediction.new_empty((), dtype=wide), prediction.new_empty((), dtype=wide)


@operator("normalized_pixel_mse_backward")
def _gradient(
    grad: Tensor,
    count: Tensor,
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    normalize: bool,
    implementation: str,
) -> Tensor:
    """2 * grad / (count * C) * mask * (prediction - target), of the type of the prediction"""
    if implementation == "triton":
        from . import kernel

        return kernel.backward(grad, count, prediction, images, mask, mean, std, normalize)
    factor = grad * (2 / prediction.shape[2]) / count
    out = torch.empty_like(prediction, memory_format=torch.contiguous_format)
    for some, error in _errors(prediction, images, mean, std, normalize):
        out[some] = error.mul_((mask[some] * factor)[..., None])
    return out


@_gradient.register_fake
def _(
    grad: Tensor,
    count: Tensor,
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    normalize: bool,
    implementation: str,
) -> Tensor:
    return prediction.new_empty(prediction.shape)


def _errors(
    prediction: Tensor, images: Tensor, mean: list[float], std: list[float], normalize: bool
) -> Iterator[tuple[slice, Tensor]]:
    """prediction - target of some images at a time, in fp32 or fp64: [some, P, C]"""
    center, scale = (prediction.new_tensor(values, dtype=_wide(prediction)) for values in (mean, std))
    step = max(1, VALUES_AT_ONCE // max(1, prediction[:1].numel()))
    for start in range(0, len(images), step):
        some = slice(start, start + step)
        pixels = images[some].to(center.dtype)
        if images.dtype == torch.uint8:
            pixels = pixels / 255
        target = _patches(pixels.sub(center).div_(scale), prediction.shape[2])
        if normalize:
            variance, middle = torch.var_mean(target, -1, keepdim=True)
            target.sub_(middle).mul_((variance + EPSILON).rsqrt_())
        yield some, target.neg_().add_(prediction[some])


def _patches(pixels: Tensor, width: int) -> Tensor:
    """[B, H, W, 3] -> a copy [B, P, width] in the order row, column, channel"""
    batch, height, across, channels = pixels.shape
    size = isqrt(width // channels)
    grid = pixels.view(batch, height // size, size, across // size, size, channels)
    return grid.transpose(2, 3).reshape(batch, -1, width)


def _wide(prediction: Tensor) -> torch.dtype:
    return torch.promote_types(prediction.dtype, torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    prediction, images, mask, *ctx.settings = inputs
    ctx.save_for_backward(prediction, images, mask, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    prediction, images, mask, count = ctx.saved_tensors
    return _gradient(grad, count, prediction, images, mask, *ctx.settings), *[None] * 6


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtypes: tuple[torch.dtype, ...], width: int, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot run for such arguments, or None."""
    if unavailable:
        return unavailable
    if torch.float64 in dtypes:
        return "the kernel adds in fp32, and an argument is float64"
    return f"the kernel takes patches of up to 4096 values, not {width}" if width > 4096 else None


def normalized_pixel_mse(
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalize: bool = True,
) -> Tensor:
    """loss = sum over b, p of mask[b, p] * mean_i (prediction[b, p, i] - target[b, p, i])^2 / sum of mask

    prediction [B, P, p * p * 3] of any floating type, values of a patch in the order (row, column, channel);
    images [B, H, W, 3] uint8, then divided by 255, or floating; mask bool [B, P], True where a patch counts. Where
    mean and std (three numbers each) are given, channels are normalised by them first; then each patch by
    itself, (x - mean) / sqrt(variance + 1e-6) with the unbiased variance, unless `normalize` is off. An fp32
    scalar (fp64 for float64 predictions), computed in fp32 under autocast too; images have no gradient. Targets
    exist for some images at a time. No patch that counts: loss 0. ValueError where a shape or type does not fit.

    MAE's loss: He et al., arXiv:2111.06377.

    >>> images, mask = torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3), torch.tensor([[True, False, True, True]])
    >>> round(normalized_pixel_mse(torch.zeros(1, 4, 12), 255 * images.float(), mask).item(), 4)  # 11 / 12
    0.9167
    """
    _check(prediction, images, mask)
    _check_patches(prediction, images)
    _check_scaling(mean, std)
    device = prediction.device.type
    found = obstacle((prediction.dtype, images.dtype), prediction.shape[2], triton_obstacle(device))
    implementation = choose("pixel_mse", found, expected=device == "cuda")
    if implementation == "reference":
        with torch.autocast(device, enabled=False):
            return reference.normalized_pixel_mse(prediction, images.detach(), mask, mean, std, normalize)
    center, scale = [float(x) for x in mean or (0, 0, 0)], [float(x) for x in std or (1, 1, 1)]
    return _forward(prediction, images.detach(), mask, center, scale, normalize, implementation)[0]


def _check(prediction: Tensor, images: Tensor, mask: Tensor) -> None:
    floating("prediction", prediction, "[B, P, p * p * 3]")
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise refusal("images", images, "uint8 or floating point")
    if images.dim() != 4 or images.shape[0] != prediction.shape[0] or images.shape[3] != 3:
        raise refusal("images", images, f"[{prediction.shape[0]}, H, W, 3]")
    if mask.dtype != torch.bool or mask.shape != prediction.shape[:2]:
        raise refusal("mask", mask, f"bool {list(prediction.shape[:2])}")
    for name, tensor in (("images", images), ("mask", mask)):
        beside(name, tensor, "prediction", prediction)


def _check_patches(prediction: Tensor, images: Tensor) -> None:
    size = isqrt(prediction.shape[2] // 3)
    if size == 0 or 3 * size * size != prediction.shape[2]:
        raise refusal("prediction", prediction, "[B, P, p * p * 3] for some p")
    height, width = images.shape[1:3]
    if height % size or width % size:
        raise refusal("images", images, f"of a height and a width that patches of {size} divide")
    patches = height * width // size**2
    if prediction.shape[1] != patches:
        raise refusal("prediction", prediction, f"of {patches} patches, as the images have of size {size}")


def _check_scaling(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if mean is None and std is None:
        return
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != 3:
            raise refusal(name, values, "three numbers, as both mean and std are given or neither")
    if any(not value > 0 for value in std or ()):
        raise refusal("std", std, "three numbers greater than 0")
