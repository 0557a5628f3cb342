"""Pillow's operations that leave every pixel in its place: pixels uint8 [B, 3, H, W], numbers float64 [B, 6]."""

import torch
from torch import Tensor


def auto_contrast(pixels: Tensor, numbers: Tensor) -> Tensor:
    """trunc(255 / (high - low) * v - 255 / (high - low) * low), of each channel that has more than one value"""
    low, high = (extreme.double()[..., None] for extreme in (pixels.amin((2, 3)), pixels.amax((2, 3))))
    value = torch.arange(256, dtype=torch.float64, device=pixels.device)
    scale = torch.full_like(low, 255.0) / (high - low)  # a number over a tensor would be that times a reciprocal
    stretched = value * scale + -low * scale
    return looked_up(pixels, torch.where(high > low, stretched.clamp(0, 255), value))


def equalize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """(step // 2 + pixels below v) // step where step = (all pixels - those of the highest value) // 255 is not 0"""
    value = torch.arange(256, device=pixels.device)
    flat = pixels.flatten(2).long()
    count = flat.new_zeros(*pixels.shape[:2], 256).scatter_add_(2, flat, torch.ones_like(flat))
    highest = pixels.amax((2, 3)).long()[..., None]
    step = (flat.shape[2] - count.gather(2, highest)) // 255
    below = count.cumsum(2) - count
    flattened = (step // 2 + below) // step.clamp(min=1)
    return looked_up(pixels, torch.where(step > 0, flattened.clamp(max=255), value))


def looked_up(pixels: Tensor, table: Tensor) -> Tensor:
    """table [B, 3, 256], truncated to 8 bits"""
    return table.to(torch.uint8).gather(2, pixels.flatten(2).long()).view_as(pixels)


def invert(pixels: Tensor, numbers: Tensor) -> Tensor:
    """255 - v"""
    return 255 - pixels


def posterize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """v without its low 8 - bits bits"""
    lost = 8 - numbers[:, :1, None, None].to(torch.int32)
    return (pixels >> lost << lost).to(torch.uint8)


def solarize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """v < threshold ? v : 255 - v"""
    return torch.where(pixels >= numbers[:, :1, None, None], 255 - pixels, pixels)


def solarize_add(pixels: Tensor, numbers: Tensor) -> Tensor:
    """v < 128 ? min(255, v + more) : v"""
    more = numbers[:, :1, None, None].to(torch.int32)
    return torch.where(pixels < 128, (pixels + more).clamp(max=255), pixels.to(torch.int32)).to(torch.uint8)


def color(pixels: Tensor, numbers: Tensor) -> Tensor:
    """From the picture's own grey."""
    return blend(luma(pixels), pixels, numbers)


def contrast(pixels: Tensor, numbers: Tensor) -> Tensor:
    """From its mean grey, rounded."""
    grey = luma(pixels)
    count = grey[0].numel()
    mean = (2 * grey.sum((1, 2, 3), dtype=torch.int64) + count) // (2 * count)
    return blend(mean[:, None, None, None], pixels, numbers)


def brightness(pixels: Tensor, numbers: Tensor) -> Tensor:
    """From black."""
    return blend(torch.zeros_like(pixels[:, :1]), pixels, numbers)


def sharpness(pixels: Tensor, numbers: Tensor) -> Tensor:
    """From the mean of 3 x 3 pixels in which the middle one counts five times; the border is left as it is."""
    if min(pixels.shape[2:]) < 3:
        return pixels.clone()
    x = pixels.to(torch.int32)
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    inner = x[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    smooth = (2 * total + 13) // 26  # to the nearest; Pillow's sum in fp32 never errs by the 1/26 that would matter
    out = pixels.clone()
    out[:, :, 1:-1, 1:-1] = blend(smooth, inner, numbers)
    return out


def luma(pixels: Tensor) -> Tensor:
    """round(0.299 R + 0.587 G + 0.114 B) with weights in 16 bits: int32 [B, 1, H, W]"""
    red, green, blue = pixels.to(torch.int32).split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def blend(base: Tensor, pixels: Tensor, numbers: Tensor) -> Tensor:
    """base + factor * (pixels - base) in fp32, cut to 0..255 and truncated"""
    base, factor = base.to(torch.float32), numbers[:, :1, None, None].to(torch.float32)
    return (base + factor * (pixels.to(torch.float32) - base)).clamp_(0, 255).to(torch.uint8)
