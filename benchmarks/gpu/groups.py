"""Groups of pixels, as a step of GMML has them: drawn, shown as something else, reconstructed."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vitkiln.kernels import corrupt_groups, group_mask, masked_l1
from vitkiln.kernels.groups import reference

from .work import Place, Work, forcing, plain

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def works(place: Place) -> Iterator[Work]:
    """Two views of 512 images at 224 px, in patches of 16."""
    batch, side = place.size(1024, 3), place.size(224, 32)
    for align in (1, 16):
        yield masks(place, batch, side, align)
    yield corruption(place, batch, side)
    yield losses(place, batch, side)


def keys(place: Place, batch: int) -> tuple[Tensor, Tensor]:
    """seed and sample ids"""
    first = int(torch.randint(0, 1 << 30, ()))
    return torch.randint(0, 1 << 30, (2,), device=place.device), torch.arange(first, first + batch, device=place.device)


def images(place: Place, batch: int, side: int) -> Tensor:
    """Bytes."""
    return torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=place.device)


def masks(place: Place, batch: int, side: int, align: int) -> Work:
    """Bytes: ids and targets, bitmaps and masks."""

    def drawn(seed: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return group_mask(seed, ids, (side, side), 0.63, align)

    return Work(
        "group_mask",
        "forward",
        {"B": batch, "size": side, "align": align},
        lambda: keys(place, batch),
        {"eager": forcing("torch", "groups", drawn), "ours": plain(drawn)},
        moved=batch * (16 + side * side + side * (side + 31) // 32 * 4),
        tolerance=0.0,
        images=batch,
    )


def corruption(place: Place, batch: int, side: int) -> Work:
    """Bytes: images in and out, and bitmaps."""
    bits = group_mask(*keys(place, batch), (side, side), 0.63)[0]

    def by(corrupt: Callable[..., Any]) -> Callable[..., Any]:
        return lambda pixels, seed, ids: corrupt(pixels, bits, "noise", None, seed, ids, MEAN, STD)

    def whole(pixels: Tensor, mask: Tensor, *rest: Any) -> Tensor:
        flags = ((mask[..., None] >> torch.arange(32, device=mask.device)) & 1).flatten(-2)[..., :side].bool()
        return reference.corrupt_groups(pixels, flags, *rest)

    return Work(
        "corrupt_groups",
        "forward",
        {"B": batch, "size": side},
        lambda: (images(place, batch, side), *keys(place, batch)),
        {"eager": plain(by(whole)), "compiled": place.compiled(by(whole)), "ours": plain(by(corrupt_groups))},
        moved=2 * batch * side * side * 3 + bits.numel() * 4,
        tolerance=1e-3,
        images=batch,
    )


def losses(place: Place, batch: int, side: int) -> Work:
    """Bytes: predictions and images twice, and gradients."""
    bits, mask = group_mask(*keys(place, batch), (side, side), 0.63)

    def whole(prediction: Tensor, pixels: Tensor) -> Tensor:
        return reference.masked_l1(prediction, pixels, mask, MEAN, STD)

    def fused(prediction: Tensor, pixels: Tensor) -> Tensor:
        return masked_l1(prediction, pixels, bits, MEAN, STD)

    return Work(
        "masked_l1",
        "forward+backward",
        {"B": batch, "size": side, "patch": 16},
        lambda: (place.random(batch, side * side // 256, 768, gradient=True), images(place, batch, side)),
        {"eager": plain(whole), "compiled": place.compiled(whole), "ours": plain(fused)},
        moved=batch * side * side * 3 * (2 + 3 * place.dtype.itemsize),
        images=batch,
    )
