"""What augmenting means, in plain PyTorch: Pillow's operations, with its rounding to 8 bits after each."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import colour, columns
from .blur import blur
from .colour import adjust, luma

Change = Callable[..., Tensor]


def augment_views(images: Tensor, parameters: Tensor) -> Tensor:
    """out = flip(solarize(blur(gray(jitter(image))))), each step of an image only where its row asks for it

    images uint8 [B, H, W, 3], parameters float32 [B, 13] -> uint8 [B, H, W, 3]

    >>> image, row = torch.tensor([[[[0, 0, 0], [9, 9, 9]]]], dtype=torch.uint8), torch.zeros(1, 13)
    >>> row[0, columns.FLIP], row[0, columns.THRESHOLD] = 1, 9
    >>> augment_views(image, row)[0, 0, :, 0].tolist()
    [246, 0]
    """
    pixels = images.permute(0, 3, 1, 2).contiguous()  # [B, 3, H, W]
    jitter, hue = parameters[:, columns.JITTER] > 0, parameters[:, columns.HUE] != 0
    for place in range(columns.ORDER.start, columns.ORDER.stop):
        operation = parameters[:, place]
        pixels = where(jitter & ((operation < 3) | hue), adjust, pixels, operation, parameters)
    pixels = where(parameters[:, columns.GRAY] > 0, _gray, pixels)
    sigma, threshold = parameters[:, columns.SIGMA], parameters[:, columns.THRESHOLD]
    pixels = where(sigma > 0, blur, pixels, sigma)
    pixels = where(threshold < 256, _solarize, pixels, threshold)
    flip = parameters[:, columns.FLIP]
    pixels = where((flip == 1) | (flip == 3), _mirror, pixels)
    pixels = where(flip >= 2, _turn_over, pixels)
    return pixels.permute(0, 2, 3, 1).contiguous()


def where(chosen: Tensor, change: Change, pixels: Tensor, *arguments: Tensor) -> Tensor:
    """Change the chosen images. A CPU computes only those; a GPU all of them, and so never waits for a count."""
    if pixels.device.type not in colour.SELECTING:
        return torch.where(chosen[:, None, None, None], change(pixels, *arguments), pixels)
    rows = chosen.nonzero().flatten()
    if len(rows):
        changed = change(pixels[rows], *(argument[rows] for argument in arguments))
        pixels = changed if len(rows) == len(pixels) else pixels.index_copy(0, rows, changed)
    return pixels


def _gray(pixels: Tensor) -> Tensor:
    return luma(pixels).expand_as(pixels)


def _solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(pixels >= threshold[:, None, None, None], 255 - pixels, pixels)


def _mirror(pixels: Tensor) -> Tensor:
    return pixels.flip(-1)


def _turn_over(pixels: Tensor) -> Tensor:
    return pixels.flip(-2)
