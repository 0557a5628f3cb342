"""The operator that cuts views and then augments them, each while it lies in a cache or in shared memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import refusal
from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from ..crop_views import asked, crop_views
from . import reference
from .images import in_torch


def augmented(
    images: list[Tensor],
    which: Tensor | None,
    boxes: Tensor,
    size: int,
    interpolation: str,
    parameters: Tensor,
    implementation: str,
) -> Tensor:
    """`images` are as they were given, or a batch in a list."""
    numbers = numbered(images, which)
    asked.check_boxes(images, boxes, numbers)
    if implementation == "native" and native("augment_views", images[0].device.type):
        return in_native(images, which, boxes, size, interpolation, parameters)
    views = cut(images, numbers, boxes, size, interpolation)
    return reference.augment_views(views, parameters) if implementation == "reference" else in_torch(views, parameters)


_augment = operator("augment_boxes")(augmented)


@_augment.register_fake
def _(
    images: list[Tensor],
    which: Tensor | None,
    boxes: Tensor,
    size: int,
    interpolation: str,
    parameters: Tensor,
    implementation: str,
) -> Tensor:
    return images[0].new_empty(boxes.shape[0], size, size, 3)


def augment_boxes(images: list[Tensor], which: Tensor | None, boxes: Tensor, *others: Any) -> Tensor:
    """Where nothing is compiled the function behind the operator: PyTorch's wrapper looks at every image twice."""
    if not boxes.shape[0]:
        return images[0].new_empty(0, others[0], others[0], 3)
    direct = type(boxes) is Tensor and not torch.compiler.is_compiling()
    out: Tensor = (augmented if direct else _augment)(images, which, boxes, *others)
    return out


def in_native(
    images: list[Tensor], which: Tensor | None, boxes: Tensor, size: int, interpolation: str, parameters: Tensor
) -> Tensor:
    """All views at once: on a CPU by so many threads as PyTorch has, on a GPU by a block of threads each."""
    run = getattr(torch.ops, NAMESPACE).augment_boxes_native
    given, number = asked.native_arguments(images, interpolation)
    every = torch.arange(boxes.shape[0]) if which is None else which.contiguous()
    threads = torch.get_num_threads()
    out: Tensor = run(given, every, boxes.contiguous(), size, number, parameters.contiguous(), threads)
    return out


def cut(images: list[Tensor], numbers: Sequence[int] | None, boxes: Tensor, size: int, interpolation: str) -> Tensor:
    """By the other room."""
    if numbers is None:
        return crop_views(images[0] if images[0].dim() == 4 else images, boxes, size, interpolation)
    every = asked.apart(images)
    return crop_views([every[number] for number in numbers], boxes, size, interpolation)


def numbered(images: list[Tensor], which: Tensor | None) -> list[int] | None:
    """`which` as numbers; ValueError unless each is that of an image."""
    if which is None:
        return None
    numbers: list[int] = which.tolist()
    count = images[0].shape[0] if images[0].dim() == 4 else len(images)
    for place, number in enumerate(numbers):
        if not 0 <= number < count:
            raise refusal(f"which[{place}]", number, f"from 0 to {count - 1}, the number of an image")
    return numbers
