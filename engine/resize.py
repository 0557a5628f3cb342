"""Boxes of many images resized at once, each image's boxes where its own numbers put them."""

from __future__ import annotations

import torch
from torch import Tensor

Spans = tuple[Tensor, Tensor]  # where pieces of one axis begin and how long they are, in pixels: int64 [N, K] each


def resized(images: Tensor, rows: Spans, columns: Spans, size: int) -> Tensor:
    """Every box of a piece of rows and a piece of columns, resized to size x size pixels and put beside the others.

    Bilinear without antialiasing, as `F.interpolate` is with corners not aligned; nothing outside of a box is seen.
    images [N, H, W, 3], uint8 (the result is rounded) or float -> [N, K * size, L * size, 3] of the same type
    """
    pixels = images if images.dtype.is_floating_point else images.float()
    pixels = along_columns(pixels, *rows, size)
    pixels = along_columns(pixels.transpose(1, 2), *columns, size).transpose(1, 2)
    return pixels if images.dtype.is_floating_point else pixels.round().to(images.dtype)


def along_columns(pixels: Tensor, starts: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Each piece of the first axis of [N, H, ..] as `size` rows: [N, K * size, ..]"""
    middle = torch.arange(size, device=pixels.device) + 0.5
    place = (middle * lengths[..., None] / size - 0.5).clamp(min=0)  # [N, K, size]
    below = place.long()
    above = torch.minimum(below + 1, lengths[..., None] - 1)
    weight = (place - below).to(pixels.dtype).flatten(1)[:, :, None, None]
    image = torch.arange(len(pixels), device=pixels.device)[:, None]
    first, second = (pixels[image, (starts[..., None] + row).flatten(1)] for row in (below, above))
    return torch.lerp(first, second, weight)
