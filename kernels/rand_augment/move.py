"""Pillow's affine maps: every pixel from where its place points to, between pixels by lines or cubics, in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor


def move(pixels: Tensor, numbers: Tensor, fill: Tensor, cubic: bool) -> Tensor:
    """out[y, x] = in(a (x + 1/2) + b (y + 1/2) + c, d (x + 1/2) + e (y + 1/2) + f), or fill beyond the picture

    pixels uint8 [B, 3, H, W], numbers float64 [B, 6], fill uint8 [3, 1, 1]. Borders are repeated; the value is cut to
    0..255 and truncated, as Pillow has it.
    """
    height, width = pixels.shape[2:]
    across, down = places(numbers, height, width)
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    across, down = (torch.where(inside, place, 0.5) - 0.5 for place in (across, down))
    left, top = across.floor(), down.floor()
    taps = (-1, 0, 1, 2) if cubic else (0, 1)
    columns = [(left + tap).clamp_(0, width - 1).long() for tap in taps]
    rows = [(top + tap).clamp_(0, height - 1).long() * width for tap in taps]
    lines = [between([read(pixels, row + column) for column in columns], (across - left)[:, None]) for row in rows]
    value = between(lines, (down - top)[:, None])
    return torch.where(inside[:, None], value.clamp_(0, 255).to(torch.uint8), fill)


def places(numbers: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, in columns and in rows: float64 [B, H, W] both."""
    a, b, c, d, e, f = numbers[:, :, None, None].unbind(1)
    x = torch.arange(width, dtype=torch.float64, device=numbers.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=numbers.device)[:, None] + 0.5
    return a * x + b * y + c, d * x + e * y + f


def read(pixels: Tensor, index: Tensor) -> Tensor:
    """Of every channel: float64 [B, 3, H, W]"""
    flat = index.flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    return pixels.flatten(2).gather(2, flat).view_as(pixels).double()


def between(values: Sequence[Tensor], part: Tensor) -> Tensor:
    """Two values by a line, or the middle of four by a cubic whose slopes are whole differences, not halves."""
    if len(values) == 2:
        first, second = values
        return first + (second - first) * part
    before, first, second, after = values
    slope = second - before
    bend = 2 * (before - first) + second - after
    twist = -before + first - second + after
    return first + part * (slope + part * (bend + part * twist))
