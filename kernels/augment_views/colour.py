"""Pillow's colour arithmetic on planar 8-bit pixels [B, 3, H, W]."""

import torch
from torch import Tensor

from . import columns

SELECTING = frozenset({"cpu"})  # devices that pick the rows to compute; elsewhere that would wait for their number


def adjust(pixels: Tensor, operation: Tensor, parameters: Tensor) -> Tensor:
    """One operation for each image: 0 brightness, 1 contrast, 2 saturation (a blend with black, the mean grey or the
    image's own grey), 3 hue."""
    if pixels.device.type in SELECTING:
        out = torch.empty_like(pixels)
        for number in range(4):
            rows = (operation == number).nonzero().flatten()
            if len(rows):
                out[rows] = _one(number, pixels[rows], parameters[rows])
        return out
    chosen = operation[:, None, None, None]
    result = _one(3, pixels, parameters)
    for number in range(3):
        result = torch.where(chosen == number, _one(number, pixels, parameters), result)
    return result


def _one(number: int, pixels: Tensor, parameters: Tensor) -> Tensor:
    if number == 3:
        return turn_hue(pixels, parameters[:, columns.HUE])
    factor = parameters[:, columns.FACTORS][:, number]
    if number == 0:
        return blend(torch.zeros_like(pixels[:, :1]), pixels, factor)
    return blend(_mean(luma(pixels)) if number == 1 else luma(pixels), pixels, factor)


def luma(pixels: Tensor) -> Tensor:
    """round(0.299 R + 0.587 G + 0.114 B) with weights in 16 bits: uint8 [B, 1, H, W]"""
    red, green, blue = pixels.to(torch.int32).split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)


def _mean(gray: Tensor) -> Tensor:
    count = gray[0].numel()
    total = gray.sum((1, 2, 3), dtype=torch.int64)
    return ((2 * total + count) // (2 * count))[:, None, None, None]  # rounded, exactly


def blend(base: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """base + factor * (pixels - base), cut to 0..255 and truncated"""
    base = base.to(torch.float32)
    mixed = base + factor[:, None, None, None] * (pixels.to(torch.float32) - base)
    return mixed.clamp_(0, 255).to(torch.uint8)


def turn_hue(pixels: Tensor, hue: Tensor) -> Tensor:
    """Through 8-bit HSV; the turn is truncated to 1/255 of the circle, and the sum wraps at 256 as 8 bits do."""
    h, s, v = hsv(pixels)
    shift = (hue.double() * 255).trunc().to(torch.int32)[:, None, None]
    return rgb((h + shift) & 255, s, v)


def hsv(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """int32 [B, H, W] each, 0..255. Double precision where C computes in it: else a hue in many is one lower."""
    red, green, blue = pixels.to(torch.float32).unbind(1)
    high, low = pixels.amax(1).to(torch.float32), pixels.amin(1).to(torch.float32)
    spread = high - low
    some = spread.clamp(min=1)
    r, g, b = (high - red) / some, (high - green) / some, (high - blue) / some
    sixths = torch.where(
        red == high,
        (b - g).double(),
        torch.where(green == high, 2.0 + r.double() - b.double(), 4.0 + g.double() - r.double()),
    ).float()
    turn = (sixths.double() / 6.0 + 1.0).fmod(1.0).float()
    h = torch.where(spread > 0, (turn.double() * 255.0).to(torch.int32), 0)
    s = ((spread / high.clamp(min=1)).double() * 255.0).to(torch.int32)
    return h, s, high.to(torch.int32)


def rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] of int32 [B, H, W] each: a channel is round(v * (1 - s * its distance from the hue))"""
    saturation, value = (s.double() / 255.0).float().double(), v.double()
    channels = [value * (1.0 - saturation * distance[h]) for distance in distances(h.device)]
    return torch.stack([(channel + 0.5).floor().to(torch.uint8) for channel in channels], 1)


def distances(device: torch.device) -> Tensor:
    """How far red, green and blue are from each of the 256 hues, from 0 to 1: double [3, 256]"""
    sixths = torch.arange(256, dtype=torch.float64, device=device) * 6.0 / 255.0
    sector = sixths.floor()
    part = (sixths - sector).float().double()
    near, far = torch.zeros_like(part), torch.ones_like(part)
    kinds = torch.stack([near, part, far, far, 1.0 - part, near])  # of red in the six sectors of the circle
    sector = sector.long() % 6
    return torch.stack([kinds.gather(0, ((sector + turn) % 6)[None])[0] for turn in (0, 4, 2)])
