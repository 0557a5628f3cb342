"""RandAugment of a batch of views, as a step of fine-tuning or of supervised training has it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkiln.engine.data.randaugment import FILTERS, RandAugment
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.rand_augment import rand_augment

from .work import Place, Work, forcing, plain

POLICY, FILL = "rand-m9-mstd0.5-inc1", (124, 116, 104)


def works(place: Place) -> Iterator[Work]:
    """1024 views at 224 px, by lines and by cubics."""
    for interpolation in FILTERS:
        yield policy(place, place.size(1024, 4), place.size(224, 24), interpolation)


def operations(place: Place, batch: int, side: int) -> Tensor:
    """Drawn as a worker draws them, half of the views mirrored."""
    augment = RandAugment(View(randaugment=POLICY))
    draw = np.random.default_rng(int(torch.randint(0, 1 << 30, ())))
    numbers, mirrored = draw.random((batch, augment.numbers)).tolist(), (draw.random(batch) < 0.5).tolist()
    rows = [augment.operations(n, (m, False), side, side) for n, m in zip(numbers, mirrored, strict=True)]
    return torch.from_numpy(np.stack(rows)).to(place.device)


def policy(place: Place, batch: int, side: int, interpolation: str) -> Work:
    """Bytes: views in and out. The reference computes every operation for every view, and chooses."""

    def by(pixels: Tensor, rows: Tensor) -> Tensor:
        return rand_augment(pixels, rows, FILL, interpolation)

    def inputs() -> tuple[Tensor, Tensor]:
        pixels = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=place.device)
        return pixels, operations(place, batch, side)

    providers: dict[str, Callable[[], Callable[..., Any]]] = {
        "eager": forcing("torch", "rand_augment", by),
        "ours": plain(by),
    }
    return Work(
        f"rand_augment {interpolation}",
        "forward",
        {"B": batch, "size": side},
        inputs,
        providers,
        moved=2 * batch * side * side * 3,
        tolerance=0.0,
        images=batch,
    )
