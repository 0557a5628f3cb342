"""The loss of DILEMMA's second head, which should read the tokens once a pass."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vitkiln.kernels import detection_loss
from vitkiln.kernels.detection_loss import reference

from .work import Place, Work, plain


def works(place: Place) -> Iterator[Work]:
    """1,024 images, a quarter of 196 patches each, ViT-S and ViT-B."""
    for width in (384, 768)[: place.size(2, 1)]:
        yield work(place, place.size(1024, 3), place.size(49, 5), place.size(width, 32))


def work(place: Place, batch: int, kept: int, width: int) -> Work:
    """Tokens are read twice, and their gradient is written."""

    def inputs() -> tuple[Tensor, ...]:
        wrong = torch.rand(batch, kept, device=place.device) < 0.2
        head = place.random(width, gradient=True), place.random(1, gradient=True)
        return place.random(batch, kept, width, gradient=True), *head, wrong

    return Work(
        "detection_loss",
        "forward+backward",
        {"B": batch, "K": kept, "D": width},
        inputs,
        {
            "eager": plain(lambda *given: reference.detection_loss(*given)[0]),
            "compiled": place.compiled(lambda *given: reference.detection_loss(*given)[0]),
            "ours": plain(lambda *given: detection_loss(*given)[0]),
        },
        moved=3 * batch * kept * width * 2,
    )
