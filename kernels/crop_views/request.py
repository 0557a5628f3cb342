"""What may be asked of crops, and images as native code takes them; whoever cuts crops inside of more asks here too."""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from .._shared.checks import refusal

INTERPOLATIONS = ("bilinear", "bicubic")  # as csrc counts them
LARGEST = 65_535  # pixels along a side


def checked(
    images: Tensor | Sequence[Tensor], boxes: Tensor, size: int, interpolation: str, which: Tensor | None = None
) -> list[Tensor]:
    """The images, a batch as the only one of a list; ValueError where something does not fit. `which` is a table."""
    given = [images] if isinstance(images, Tensor) else list(images)
    check_images(given, isinstance(images, Tensor))
    there = given[0].shape[0] if isinstance(images, Tensor) else len(given)
    count = there if which is None else which.shape[0]
    if boxes.dtype != torch.float64 or boxes.shape != (count, 4):
        raise refusal("boxes", boxes, f"float64 [{count}, 4]")
    if boxes.device != given[0].device and boxes.device.type != "cpu":
        raise refusal("boxes", boxes, f"on {given[0].device}, as images are, or on a CPU")
    if size < 1:
        raise refusal("size", size, "1 or more pixels")
    if interpolation not in INTERPOLATIONS:
        raise refusal("interpolation", interpolation, meant(interpolation))
    return given


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


def check_boxes(images: Sequence[Tensor], boxes: Tensor, which: Sequence[int] | None = None) -> None:
    """ValueError unless each has an area and lies within its image; those on a GPU are not waited for."""
    if boxes.device.type != "cpu":
        return
    every = images[0].shape[-3:-1] if images[0].dim() == 4 else None
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        height, width = every or images[number if which is None else which[number]].shape[:2]
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            box = (left, top, right, bottom)
            raise refusal(f"boxes[{number}]", box, f"0 <= left < right <= {width}, 0 <= top < bottom <= {height}")


def native_arguments(images: Sequence[Tensor], interpolation: str) -> tuple[list[Tensor], int]:
    """Images whose channels lie side by side, pixels three bytes or four apart, copies where need be; the filter."""
    together = [
        image if image.stride(-1) == 1 and image.stride(-2) in (3, 4) else image.contiguous() for image in images
    ]
    return together, INTERPOLATIONS.index(interpolation)


def apart(images: Sequence[Tensor]) -> Sequence[Tensor]:
    """The images of a batch."""
    return images[0].unbind() if images[0].dim() == 4 else images


def meant(interpolation: str) -> str:
    """What there is, and what was probably meant."""
    nearest = get_close_matches(str(interpolation).lower(), INTERPOLATIONS, 1, 0.4)
    return f"one of {', '.join(INTERPOLATIONS)}" + (f"; did you mean {nearest[0]!r}?" if nearest else "")
