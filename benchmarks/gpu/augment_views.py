"""Colours, blur and flips of views, as MoCo v3 asks for them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vitkiln.engine.data.draw import colours, uniforms
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.augment_views import augment_views, layout
from vitkiln.kernels.crop_views import crop_views

from .crop_views import drawn
from .work import Place, Work, forcing, plain

VIEWS = (View(blur=1.0), View(blur=0.1, solarize=0.2))


def works(place: Place) -> Iterator[Work]:
    """256 and 1,024 views of 224 px, half of them of either kind, and local ones, of which a GPU holds more at once.

    Then both views of as many photographs, cut on the way.
    """
    for batch, side in ((256, 224), (1024, 224), (1024, 96)):
        yield views(place, place.size(batch, 4), place.size(side, 24))
    for batch in (256, 1024):
        yield views_of_boxes(place, place.size(batch, 2))


def views(place: Place, batch: int, side: int) -> Work:
    """Bytes: pixels in and out, and rows."""
    table = torch.from_numpy(rows(batch)).to(place.device)

    def inputs() -> tuple[Tensor, ...]:
        return (torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=place.device), table)

    return Work(
        "augment_views",
        "forward",
        {"B": batch, "size": side},
        inputs,
        {"eager": forcing("torch", "augment_views", augment_views), "ours": plain(augment_views)},
        moved=2 * batch * side * side * 3 + table.numel() * 4,
        tolerance=0.0,
        images=batch,
    )


def views_of_boxes(place: Place, batch: int) -> Work:
    """Two views of 224 px of each photograph of 500 x 375, by one kernel or by two for each, boxes on the host.

    Bytes: pixels within the boxes, those of the views, and rows; two kernels move the views three times.
    """
    width, height, side = place.size(500, 40), place.size(375, 30), place.size(224, 16)
    boxes, which = drawn(2 * batch, width, height), torch.arange(batch).repeat(2)
    in_turn = rows(2 * batch).reshape(batch, 2, layout.COUNT)
    table = torch.from_numpy(in_turn.transpose(1, 0, 2).reshape(2 * batch, layout.COUNT)).to(place.device)
    within = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum())

    def inputs() -> tuple[Tensor, ...]:
        return (torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, device=place.device), table)

    def in_two(images: Tensor, table: Tensor) -> list[Tensor]:
        parts = zip(table.split(batch), boxes.split(batch), strict=True)
        return [augment_views(crop_views(images, part, side), some) for some, part in parts]

    def in_one(images: Tensor, table: Tensor) -> list[Tensor]:
        return list(augment_views(images, table, boxes, side, which=which).split(batch))

    return Work(
        "augment_views, two of each photograph",
        "forward",
        {"B": batch, "width": width, "height": height, "size": side},
        inputs,
        {"crop, then colours": plain(in_two), "ours": plain(in_one)},
        moved=3 * (within + 2 * batch * side * side) + table.numel() * 4,
        tolerance=0.0,
        images=batch,
    )


def rows(count: int) -> np.ndarray:
    """The parameters of both views of so many images, in turn."""
    drawn = [colours(uniforms(0, 0, i % 2, i // 2), VIEWS[i % 2]) for i in range(count)]
    return np.stack(drawn).reshape(count, layout.COUNT)
