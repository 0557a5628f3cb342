"""Orbits of formulas, the supports of FractalDB-1k at once, and images drawn from them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vitkiln.kernels.fractals import draw_fractals, fractal_support, search_fractals, search_state

from .work import Place, Work, plain

SIZE = 362


def works(place: Place) -> Iterator[Work]:
    """25,000 supports of 200,000 points, as many as FractalDB-1k has; then 1,024 images."""
    yield supports(place, place.size(25_000, 2), place.size(200_000, 2000))
    yield images(place, place.size(1024, 3))


def supports(place: Place, count: int, points: int) -> Work:
    """The first of all is checked against the operator on a CPU."""

    def inputs() -> tuple[Tensor, ...]:
        return tuple(tensor.expand(count, *tensor.shape[1:]).contiguous() for tensor in formula(place.device))

    def drawn(device: torch.device, rows: int) -> Callable[..., Any]:
        def bits(*given: Tensor) -> Tensor:
            return fractal_support(*(tensor[:rows].to(device) for tensor in given), SIZE, points).bits[:1].cpu()

        return bits

    return Work(
        "fractal_support",
        "forward",
        {"B": count, "points": points, "size": SIZE},
        inputs,
        {"one on the CPU": plain(drawn(torch.device("cpu"), 1)), "ours": plain(drawn(place.device, count))},
        tolerance=0.0,
        enqueued=False,
        fewest=5,
    )


def images(place: Place, count: int) -> Work:
    """Bytes: the bits of the supports and the pixels of the images."""
    maps, probabilities, weights = formula(place.device)
    bits = fractal_support(maps, probabilities, weights, 224, 20_000).bits

    def inputs() -> tuple[Tensor, ...]:
        first = int(torch.randint(0, 1 << 30, ()))
        seeds = torch.arange(first, first + count, device=place.device)
        return bits.expand(count, *bits.shape[1:]).contiguous(), seeds

    return Work(
        "draw_fractals",
        "forward",
        {"B": count, "size": 224},
        inputs,
        {
            "on the CPU": plain(lambda bits, seeds: draw_fractals(bits.cpu(), seeds.cpu(), 224)),
            "ours": plain(lambda bits, seeds: draw_fractals(bits, seeds, 224)),
        },
        moved=count * (224 * 224 + bits[0].numel() * bits.element_size()),
        tolerance=0.0,
        images=count,
    )


def formula(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The fullest of the first candidates of seed 1: maps, probabilities and weights of one."""
    found = search_fractals(search_state(1), 64)
    best = slice(int(found.lit.argmax()), int(found.lit.argmax()) + 1)
    weights = torch.ones(1, 6, dtype=torch.float64)
    return found.maps[best].to(device), found.probabilities[best].to(device), weights.to(device)
