"""Contrastive losses: against the keys of one rank, of eight, and of a large batch; two views; labels; pairs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vitkiln.kernels import info_nce, n_pair, nt_xent, sup_con
from vitkiln.kernels.contrastive import reference

from . import peers
from .work import Place, Provider, Work, forcing, plain

SHAPES = [(1024, 1024), (1024, 8192), (8192, 65_536)]
VIEWS = [1024, 4096]  # images, each with two views
WIDTH, TEMPERATURE, CLASSES = 256, 0.2, 100


def works(place: Place) -> Iterator[Work]:
    """Of info_nce the gradients of the queries alone: the keys are a teacher's. Of all others every gradient."""
    for queries, keys in SHAPES[: place.size(3, 1)]:
        yield detached(place, place.size(queries, 6), place.size(keys, 10))
    for images in VIEWS[: place.size(2, 1)]:
        count = place.size(images, 6)
        yield two_views(place, count)
        yield classes(place, count)
        yield pairs(place, count)


def detached(place: Place, queries: int, keys: int) -> Work:
    """Operations: similarities and the sum of keys that is the gradient."""

    def inputs() -> tuple[Tensor, ...]:
        return place.random(queries, WIDTH, gradient=True), place.random(keys, WIDTH)

    return Work(
        "info_nce",
        "forward+backward",
        {"N": queries, "M": keys, "D": WIDTH},
        inputs,
        {
            **providers(
                place, lambda given: lambda query, key: given(query, key, TEMPERATURE), info_nce, reference.info_nce
            ),
            **peers.installed(place, TEMPERATURE),
        },
        moved=2 * WIDTH * (3 * queries + keys),
        flops=4 * queries * keys * WIDTH,
        incomparable=("liger_kernel",),  # a mean
    )


def two_views(place: Place, images: int) -> Work:
    """Operations: 6 D for each of the (2 N)^2 similarities, which are computed twice and summed once for all rows."""

    def inputs() -> tuple[Tensor, ...]:
        return place.random(images, WIDTH, gradient=True), place.random(images, WIDTH, gradient=True)

    return Work(
        "nt_xent",
        "forward+backward",
        {"N": images, "D": WIDTH},
        inputs,
        providers(
            place, lambda given: lambda first, second: given(first, second, TEMPERATURE), nt_xent, reference.nt_xent
        ),
        moved=2 * WIDTH * 4 * images,
        flops=6 * (2 * images) ** 2 * WIDTH,
    )


def classes(place: Place, images: int) -> Work:
    """As two_views, at the width of LaCViT's projection."""
    width = WIDTH // 2
    labels = torch.arange(images, device=place.device) % CLASSES

    def inputs() -> tuple[Tensor, ...]:
        return place.random(images, 2, width, gradient=True), labels

    return Work(
        "sup_con",
        "forward+backward",
        {"N": images, "V": 2, "D": width},
        inputs,
        providers(place, lambda given: lambda rows, of: given(rows, of, 0.1, 0.07), sup_con, reference.sup_con),
        moved=2 * width * 4 * images,
        flops=6 * (2 * images) ** 2 * width,
    )


def pairs(place: Place, count: int) -> Work:
    """Operations: as two_views, of N^2 similarities. Rows of a length at which no logit outweighs all others."""

    def inputs() -> tuple[Tensor, ...]:
        rows = (place.random(count, WIDTH) / WIDTH**0.5 for _ in range(2))
        first, second = (each.requires_grad_() for each in rows)
        return first, second

    return Work(
        "n_pair",
        "forward+backward",
        {"C": count, "D": WIDTH},
        inputs,
        providers(place, lambda given: given, n_pair, reference.n_pair),
        moved=2 * WIDTH * 4 * count,
        flops=6 * count**2 * WIDTH,
    )


def providers(
    place: Place, bound: Callable[[Callable[..., Tensor]], Callable[..., Tensor]], ours: Callable, theirs: Callable
) -> dict[str, Provider]:
    """`bound` makes a function of tensors alone of a loss."""
    return {
        "eager": plain(bound(theirs)),
        "compiled": place.compiled(bound(theirs)),
        "ours": plain(bound(ours)),
        "ours in chunks": forcing("torch", "contrastive", bound(ours)),
    }
