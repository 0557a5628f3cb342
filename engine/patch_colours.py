"""Colours of many small pictures at once: what is drawn for each, and jitter of pixels that are no 8-bit numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from vitkiln.kernels.augment_views import augment_views, layout

NUMBERS = 10  # uniform ones that a picture takes
LUMA = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
Strengths = tuple[float, float, float, float]


def drawn(numbers: Tensor, strengths: Strengths, probability: float, gray: float) -> Tensor:
    """What `kernels.augment_views` is to do to each picture: [N, NUMBERS] uniform -> [N, 13]

    With that probability brightness, contrast and saturation by factors of 1 - x to 1 + x (not less than 0) and the
    hue by at most h of its circle, in random order; grey with a probability of its own.
    """
    rows = numbers.new_zeros(len(numbers), layout.COUNT)
    rows[:, layout.THRESHOLD] = 256  # no value is inverted
    *blends, hue = strengths
    for place, spread in enumerate(blends):
        low = max(0.0, 1 - spread)
        rows[:, layout.FACTORS.start + place] = low + (1 + spread - low) * numbers[:, 5 + place]
    rows[:, layout.JITTER] = (numbers[:, 0] < probability).float()
    rows[:, layout.ORDER] = numbers[:, 1:5].argsort(stable=True, dim=1).float()
    rows[:, layout.HUE] = hue * (2 * numbers[:, 8] - 1)
    rows[:, layout.GRAY] = (numbers[:, 9] < gray).float()
    return rows


def coloured(pictures: Tensor, rows: Tensor) -> Tensor:
    """Pillow's arithmetic of uint8 [N, H, W, 3], which rounds after every operation; of floats the one below."""
    return jittered(pictures, rows) if pictures.dtype.is_floating_point else augment_views(pictures, rows)


def jittered(pictures: Tensor, rows: Tensor) -> Tensor:
    """Jitter and grey of floats [N, H, W, 3], as torchvision defines them for tensors: blends are cut to [0, 1],
    wherever the pixels were before. rows [N, 13]"""
    jitter = rows[:, layout.JITTER] > 0
    for place in range(layout.ORDER.start, layout.ORDER.stop):
        operation = rows[:, place]
        blend, hue = (wide(jitter & which) for which in (operation < HUE, operation == HUE))
        pictures = torch.where(blend, blended(pictures, operation, rows), pictures)
        pictures = torch.where(hue, turned(pictures, wide(rows[:, layout.HUE])), pictures)
    return torch.where(wide(rows[:, layout.GRAY] > 0), luma(pictures), pictures)


def wide(values: Tensor) -> Tensor:
    """One for each picture: [N] -> [N, 1, 1, 1]"""
    return values[:, None, None, None]


def luma(pictures: Tensor) -> Tensor:
    """[N, H, W, 3] -> [N, H, W, 1]"""
    red, green, blue = pictures.split(1, -1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def blended(pictures: Tensor, operation: Tensor, rows: Tensor) -> Tensor:
    """base + factor * (x - base), cut to [0, 1]; the base is black, the mean grey or each pixel's grey."""
    which = operation.long().clamp(max=SATURATION)
    factor = rows[:, layout.FACTORS].gather(1, which[:, None])[:, 0].to(pictures.dtype)
    gray, kind = luma(pictures), wide(which)
    base = torch.where(kind == CONTRAST, gray.mean((1, 2, 3), keepdim=True), gray)
    base = torch.where(kind == BRIGHTNESS, 0.0, base)
    return torch.lerp(base.expand_as(pictures), pictures, wide(factor)).clamp(0, 1)


def turned(pictures: Tensor, turn: Tensor) -> Tensor:
    """The hue turned by a share of its circle; what is not the largest channel is cut to [0, 1]."""
    hue, saturation, value = hsv(pictures)
    sixths = (hue + turn).remainder(1) * 6
    place = torch.cat([sixths + 5, sixths + 3, sixths + 1], -1).remainder(6)
    below = torch.minimum(place, 4 - place).clamp(0, 1)  # how far red, green and blue are from their largest
    return torch.where(below == 0, value, (value * (1 - saturation * below)).clamp(0, 1))


def hsv(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in [0, 1), saturation and value: [N, H, W, 1] each"""
    red, green, blue = pictures.split(1, -1)
    high, low = pictures.amax(-1, keepdim=True), pictures.amin(-1, keepdim=True)
    spread = high - low
    some = torch.where(spread == 0, 1.0, spread)
    sixths = torch.where(high == green, 2 + (blue - red) / some, 4 + (red - green) / some)
    sixths = torch.where(high == red, (green - blue) / some, sixths)
    return (sixths / 6).remainder(1), spread / torch.where(high == 0, 1.0, high), high
