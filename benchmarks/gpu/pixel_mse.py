"""MAE's loss over three quarters of the patches, whose targets should never be written."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vitkiln.kernels import normalized_pixel_mse
from vitkiln.kernels.pixel_mse import reference

from .work import Place, Work, plain

SETTINGS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True


def works(place: Place) -> Iterator[Work]:
    """224 px in patches of 16."""
    for batch in (256, 1024)[: place.size(2, 1)]:
        yield work(place, place.size(batch, 3), place.size(14, 2), place.size(16, 4))


def work(place: Place, batch: int, side: int, size: int) -> Work:
    """What counts of predictions and pixels is read twice, and every gradient is written."""
    patches, values = side * side, 3 * size * size

    def inputs() -> tuple[Tensor, ...]:
        shape = (batch, side * size, side * size, 3)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=place.device)
        mask = torch.rand(batch, patches, device=place.device) < 0.75
        return place.random(batch, patches, values, gradient=True), images, mask

    return Work(
        "normalized_pixel_mse",
        "forward+backward",
        {"B": batch, "P": patches, "C": values},
        inputs,
        {
            "eager": plain(lambda *given: reference.normalized_pixel_mse(*given, *SETTINGS)),
            "compiled": place.compiled(lambda *given: reference.normalized_pixel_mse(*given, *SETTINGS)),
            "ours": plain(lambda *given: normalized_pixel_mse(*given, *SETTINGS)),
        },
        moved=int(batch * patches * values * (2 * 0.75 * 3 + 2)),
    )
