"""`crop_views`: what may be asked, and whether C++, CUDA or the reference answers. Pixels have no gradient."""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from .._shared.checks import refusal
from .._shared.choice import forced
from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from . import reference

INTERPOLATIONS = ("bilinear", "bicubic")  # as csrc counts them
LARGEST = 65_535  # pixels along a side


def cropped(images: list[Tensor], boxes: Tensor, size: int, interpolation: str) -> Tensor:
    """`images` are as they were given, or a batch in a list."""
    check_boxes(images, boxes)
    if native("crop_views", images[0].device.type):
        run = getattr(torch.ops, NAMESPACE).crop_views_native
        given = [channels_together(image) for image in images]
        out: Tensor = run(given, boxes, size, INTERPOLATIONS.index(interpolation), torch.get_num_threads())
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
    given = [images] if isinstance(images, Tensor) else list(images)
    check_images(given, isinstance(images, Tensor))
    count = given[0].shape[0] if isinstance(images, Tensor) else len(given)
    if boxes.dtype != torch.float64 or boxes.shape != (count, 4):
        raise refusal("boxes", boxes, f"float64 [{count}, 4]")
    if boxes.device != given[0].device and boxes.device.type != "cpu":
        raise refusal("boxes", boxes, f"on {given[0].device}, as images are, or on a CPU")
    if size < 1:
        raise refusal("size", size, "1 or more pixels")
    if interpolation not in INTERPOLATIONS:
        raise refusal("interpolation", interpolation, meant(interpolation))
    if count == 0:
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


def check_images(images: Sequence[Tensor], batch: bool) -> None:
    """ValueError unless there are some, uint8 with three channels and pixels, on one device."""
    if not images:
        raise refusal("images", images, "a tensor, or one or more of them")
    axes, what = (4, "uint8 [B, H, W, 3]") if batch else (3, "uint8 [H, W, 3]")
    device = images[0].device
    for number, image in enumerate(images):
        shape = image.shape
        fits = image.dtype == torch.uint8 and len(shape) == axes and shape[-1] == 3
        if not fits or not (0 < shape[-3] <= LARGEST and 0 < shape[-2] <= LARGEST):
            name = "images" if batch else f"images[{number}]"
            raise refusal(name, image, f"{what} of 1 to {LARGEST} pixels a side")
        if image.device != device:
            raise refusal(f"images[{number}]", image, f"on {device}, as images[0] is")


def check_boxes(images: Sequence[Tensor], boxes: Tensor) -> None:
    """ValueError unless each has an area and lies within its image; those on a GPU are not waited for."""
    if boxes.device.type != "cpu":
        return
    every = images[0].shape[-3:-1] if images[0].dim() == 4 else None
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        height, width = every or images[number].shape[:2]
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            box = (left, top, right, bottom)
            raise refusal(f"boxes[{number}]", box, f"0 <= left < right <= {width}, 0 <= top < bottom <= {height}")


def channels_together(image: Tensor) -> Tensor:
    """The image itself where its pixels are three bytes, four bytes apart at most; else a copy where they are."""
    return image if image.stride(-1) == 1 and image.stride(-2) in (3, 4) else image.contiguous()


def apart(images: Sequence[Tensor]) -> Sequence[Tensor]:
    """The images of a batch."""
    return images[0].unbind() if images[0].dim() == 4 else images


def meant(interpolation: str) -> str:
    """What there is, and what was probably meant."""
    nearest = get_close_matches(str(interpolation).lower(), INTERPOLATIONS, 1, 0.4)
    return f"one of {', '.join(INTERPOLATIONS)}" + (f"; did you mean {nearest[0]!r}?" if nearest else "")
