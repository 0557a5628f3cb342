"""Pillow's Gaussian blur: three box blurs along rows, three along columns, each rounded to 8 bits."""

import torch
from torch import Tensor

ONE = 1 << 24
PASSES = 3


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """uint8 [B, C, H, W], sigma float [B] below 2.44, where a box reaches two pixels -> uint8 [B, C, H, W]"""
    weights = box(sigma)
    for axis in (-1, -2):
        for _ in range(PASSES):
            pixels = box_blur(pixels, weights, axis)
    return pixels


def box(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The box of fractional radius whose third power has this sigma (Gwosdek et al., SSVM 2011), in 24-bit weights.

    Returns those of the centre, of the two pixels beside it and of the two beyond, int32 [B, 1, 1, 1].
    """
    variance = sigma.double().square() / PASSES
    whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor()
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    radius = (whole + rest).float()
    inside = (ONE / (radius * 2 + 1)).to(torch.int32)
    edge = (ONE - (whole.to(torch.int32) * 2 + 1) * inside) // 2
    wide = whole > 0
    weights = inside, torch.where(wide, inside, edge), torch.where(wide, edge, 0)
    near = [weight.to(torch.int32)[:, None, None, None] for weight in weights]
    return near[0], near[1], near[2]


def box_blur(pixels: Tensor, weights: tuple[Tensor, Tensor, Tensor], axis: int) -> Tensor:
    """round(sum of weight * pixel / 2^24) over five pixels along an axis, the border repeated.

    128 is taken from the pixels first, so that no sum leaves 32 bits: the weights add up to 2^24 or 2^24 - 1.
    """
    centre, near, far = weights
    length = pixels.shape[axis]
    x = pixels.to(torch.int32) - 128
    index = torch.arange(-2, length + 2, device=pixels.device).clamp_(0, length - 1)
    padded = x.index_select(axis, index)
    at = [padded.narrow(axis, start, length) for start in range(5)]
    total = at[2] * centre
    total += (at[1] + at[3]).mul_(near)
    total += (at[0] + at[4]).mul_(far)
    missing = ONE - centre - 2 * near - 2 * far
    total += (ONE >> 1) - 128 * missing
    return total.bitwise_right_shift_(24).add_(128).to(torch.uint8)
