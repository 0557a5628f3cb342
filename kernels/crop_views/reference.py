"""What cropping means, in plain PyTorch: Pillow's weights in fixed point, rounded to 8 bits after either axis."""

from collections.abc import Sequence
from functools import reduce
from math import ceil
from operator import add

import torch
from torch import Tensor

ONE = 2**22  # of a weight
REACH = {"bilinear": 1, "bicubic": 2}  # pixels of the result


def crop_views(images: Sequence[Tensor], boxes: Tensor, size: int, interpolation: str) -> Tensor:
    """out[b] = rows(columns(images[b])), or the other way around where `columns_first` says so

    images uint8 [H_i, W_i, 3], boxes float64 [B, 4] on their device or a CPU -> uint8 [B, size, size, 3]

    >>> image = torch.arange(0, 48, 4, dtype=torch.uint8).view(2, 2, 3)
    >>> crop_views([image], torch.tensor([[0.0, 0, 2, 2]]), 1, "bilinear").tolist()
    [[[[18, 22, 26]]]]
    """
    out = boxes.new_empty(len(images), size, size, 3, dtype=torch.uint8, device=images[0].device)
    for image, box, view in zip(images, boxes.to(out.device, non_blocking=True), out, strict=True):
        height, width = image.shape[:2]
        left, top, right, bottom = box.unbind()
        across, down = taps(left, right, width, size, interpolation), taps(top, bottom, height, size, interpolation)
        steps = [("xw,hwc->hxc", across), ("yh,hwc->ywc", down)]
        pixels = image.double()
        for axes, matrix in reversed(steps) if columns_first(height, width, size) else steps:
            pixels = (torch.einsum(axes, matrix, pixels) / ONE + 0.5).floor().clamp(0, 255)
        view.copy_(pixels)
    return out


def taps(low: Tensor, high: Tensor, side: int, size: int, interpolation: str) -> Tensor:
    """Weights of a picture's pixels along an axis, whole numbers that add up to about ONE: float64 [size, side]

    The filter covers `reach` pixels of the result to either side, or of the picture where those are larger.
    """
    reach, steps = REACH[interpolation], torch.arange(size, dtype=torch.float64, device=low.device)
    scale = (high.float() - low.float()).double() / size
    stretch = scale.clamp(min=1)
    center = low.float().double() + (steps + 0.5) * scale
    first, end = ((center + way * stretch + 0.5).clamp(0, side).long() for way in (-reach, reach))
    most = 2 * ceil(reach * max(1.0, side / size)) + 1
    index = first[:, None] + torch.arange(most, device=low.device)
    weights = FILTERS[interpolation]((index - center[:, None] + 0.5) * (1 / stretch))
    weights = weights.where(index < end[:, None], torch.zeros_like(weights))
    shares = weights / reduce(add, weights.unbind(1))[:, None]  # added one after another, as the last bit counts
    whole = (shares * ONE + 0.5 * shares.sgn()).trunc()
    return whole.new_zeros(size, side).scatter_add_(1, index.clamp(max=side - 1), whole)


def bilinear(x: Tensor) -> Tensor:
    """1 - |x|, 0 from 1 on"""
    return (1 - x.abs()).clamp(min=0)


def bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2: 1.5 |x|^3 - 2.5 |x|^2 + 1, from 1 on -(|x|^3 - 5 |x|^2 + 8 |x| - 4) / 2"""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def columns_first(height: int, width: int, size: int) -> bool:
    """Whether a picture loses much more of its height than of its width: Pillow 13 then starts with its columns."""
    return height > size and height - size > 2 * (width - size)


FILTERS = {"bilinear": bilinear, "bicubic": bicubic}
