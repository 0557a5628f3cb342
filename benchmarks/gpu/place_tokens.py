"""Gathering tokens and telling them a place."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vitkiln.kernels import place_tokens
from vitkiln.kernels.place_tokens import reference

from .plan import draw
from .work import Place, Work, plain

PATCHES, KEPT = 196, 49


def works(place: Place) -> Iterator[Work]:
    """Behind a patch embedding of ViT-S and ViT-B."""
    for width in (384, 768)[: place.size(2, 1)]:
        for mode in ("forward+backward", "forward"):
            yield work(place, mode, place.size(1024, 2), place.size(width, 32))


def work(place: Place, mode: str, batch: int, width: int) -> Work:
    """Bytes: kept rows in and out with their indices; backward the gradient in, that of all rows and the table out."""
    gradient = mode != "forward"

    def inputs() -> tuple[Tensor, ...]:
        position = torch.randn(PATCHES, width, device=place.device, requires_grad=gradient)
        keep, told, _, _ = draw(place, batch, PATCHES, KEPT)
        return place.random(batch, PATCHES, width, gradient=gradient), position, keep, told

    rows, table = batch * KEPT, 4 * PATCHES * width
    backward = rows * (2 * width + 16) + 2 * batch * PATCHES * width + table
    return Work(
        "place_tokens",
        mode,
        {"B": batch, "P": PATCHES, "K": KEPT, "D": width},
        inputs,
        {
            "eager": plain(reference.place_tokens),
            "compiled": place.compiled(reference.place_tokens),
            "ours": plain(place_tokens),
        },
        moved=rows * (4 * width + 16) + table + backward * gradient,
    )
