"""Drawing plans: a launch where PyTorch needs dozens."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vitkiln.kernels import sample_tokens
from vitkiln.kernels.sample_tokens import reference

from .work import Place, Work, plain

PATCHES, KEPT = 196, 49


def works(place: Place) -> Iterator[Work]:
    """One view of 1,024 images, and of 8,192."""
    for batch in (1024, 8192)[: place.size(2, 1)]:
        yield work(place, place.size(batch, 3))


def work(place: Place, batch: int) -> Work:
    """Bytes: the ids, and keep, place, wrong and restore."""

    def inputs() -> tuple[Tensor, ...]:
        first = int(torch.randint(0, 1 << 30, ()))
        seed = torch.randint(0, 1 << 30, (2,), device=place.device)
        return seed, torch.arange(first, first + batch, device=place.device)

    def by(draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda seed, ids: draw(seed, ids, PATCHES, KEPT, 0.2)

    return Work(
        "sample_tokens",
        "forward",
        {"B": batch, "P": PATCHES, "K": KEPT},
        inputs,
        {
            "eager": plain(by(reference.sample_tokens)),
            "compiled": place.compiled(by(reference.sample_tokens)),
            "ours": plain(by(sample_tokens)),
        },
        moved=batch * (KEPT * 17 + PATCHES * 8 + 8),
        tolerance=0.0,
    )
