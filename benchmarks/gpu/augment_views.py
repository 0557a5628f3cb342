"""Colours, blur and flips of views, as MoCo v3 asks for them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vitkiln.engine.data.draw import colours, uniforms
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.augment_views import augment_views, layout

from .work import Place, Work, forcing, plain

VIEWS = (View(blur=1.0), View(blur=0.1, solarize=0.2))


def works(place: Place) -> Iterator[Work]:
    """256 and 1,024 views of 224 px, half of them of either kind, and local ones, of which a GPU holds more at once."""
    for batch, side in ((256, 224), (1024, 224), (1024, 96)):
        yield views(place, place.size(batch, 4), place.size(side, 24))


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


def rows(count: int) -> np.ndarray:
    """The parameters of both views of so many images, in turn."""
    drawn = [colours(uniforms(0, 0, i % 2, i // 2), VIEWS[i % 2]) for i in range(count)]
    return np.stack(drawn).reshape(count, layout.COUNT)
