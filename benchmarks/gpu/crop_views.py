"""Views cut from photographs that lie on the device, as a loader that decodes there has them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vitkiln.engine.data.draw import TRIES, crop_box
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.crop_views import crop_views

from .work import Place, Work, forcing, plain


def works(place: Place) -> Iterator[Work]:
    """Photographs of 500 x 375 to 224 px: 256 and 1,024 of them, boxes of 0.08 to 1 of their area."""
    for batch in (256, 1024):
        yield crops(place, place.size(batch, 2), "bilinear")
    yield crops(place, place.size(256, 2), "bicubic")


def crops(place: Place, batch: int, interpolation: str) -> Work:
    """Bytes: pixels within the boxes, and those of the views. Boxes are drawn on the host, and stay there."""
    width, height, side = place.size(500, 40), place.size(375, 30), place.size(224, 16)
    boxes = drawn(batch, width, height)
    within = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum())

    def cut(images: Tensor) -> Tensor:
        return crop_views(images, boxes, side, interpolation)

    def inputs() -> tuple[Tensor, ...]:
        return (torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, device=place.device),)

    return Work(
        f"crop_views {interpolation}",
        "forward",
        {"B": batch, "width": width, "height": height, "size": side},
        inputs,
        {"eager": forcing("reference", "crop_views", cut), "ours": plain(cut)},
        moved=3 * (within + batch * side * side),
        tolerance=0.0,
        images=batch,
    )


def drawn(count: int, width: int, height: int) -> Tensor:
    """Boxes as a worker draws them: float64 [count, 4]"""
    view = View(scale=(0.08, 1.0))
    numbers = torch.rand(count, 4 * TRIES, dtype=torch.float64).tolist()
    return torch.tensor([crop_box(row, width, height, view) for row in numbers], dtype=torch.float64)
