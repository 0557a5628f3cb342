"""`crop_views`: what may be asked, and whether C++, CUDA or the reference answers. Pixels have no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.choice import forced
from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from . import reference
from .request import apart, check_boxes, checked, native_arguments


def cropped(images: list[Tensor], boxes: Tensor, size: int, interpolation: str) -> Tensor:
    """`images` are as they were given, or a batch in a list."""
    check_boxes(images, boxes)
    if native("crop_views", images[0].device.type):
        run = getattr(torch.ops, NAMESPACE).crop_views_native
        given, number = native_arguments(images, interpolation)
        out: Tensor = run(given, boxes, size, number, torch.get_num_threads())
        return out
    return reference.crop_views(apart(images), boxes, size, interpolation)


_crop = operator("crop_views")(cropped)


@_crop.register_fake
def _(images: list[Tensor], boxes: Tensor, size: int, interpolation: str) -> Tensor:
    return images[0].new_empty(boxes.shape[0], size, size, 3)


def crop_views(images: Tensor | Sequence[Tensor], boxes: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """out[b, y, x] = round(sum_j v[y, j] round(sum_i w[x, i] images[b][j, i])), w and v those of boxes[b]

    Pillow's `Image.resize((size, size), filter, box=box)` of RGB, equal to the bit: antialiased, weights with 22 bits
    of fraction, a filter that reaches beyond the box where the picture goes on, 8 bits between the passes. As in Pillow
    13, columns come before rows where H > size and H - size > 2 (W - size); earlier ones never do that.

    images uint8 [B, H, W, 3], or B tensors [H_i, W_i, 3] on one device, strided as they may be; boxes float64 [B, 4]
    of left, top, right and bottom in pixels, with fractions, there or on a CPU; interpolation "bilinear" or "bicubic".
    The result is a new uint8 [B, size, size, 3] where the images are. Nothing waits for a GPU, so boxes that lie there
    are not looked at: where they leave the picture, pixels are undefined. ValueError where something does not fit.

    >>> image = torch.tensor([[[0, 80, 8], [100, 90, 8]]], dtype=torch.uint8)
    >>> crop_views([image], torch.tensor([[0.5, 0, 1.5, 1]], dtype=torch.float64), 1).tolist()
    [[[[50, 85, 8]]]]
    """
    given = checked(images, boxes, size, interpolation)
    if not boxes.shape[0]:
        return given[0].new_empty(0, size, size, 3)
    if forced("crop_views") in ("reference", "torch"):
        check_boxes(given, boxes)
        return reference.crop_views(apart(given), boxes, size, interpolation)
    # PyTorch's wrapper of an operator in Python takes 20 us more, a third of a view of 96 px
    direct = type(boxes) is Tensor and not torch.compiler.is_compiling()
    return (cropped if direct else _crop)(given, boxes.contiguous(), size, interpolation)


def ready(device_type: str) -> bool:
    """Whether native code can run on this kind of device; C++ is built if need be."""
    return forced("crop_views") is None and native("crop_views", device_type)
