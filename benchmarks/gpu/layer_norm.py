"""Adding a branch to the residual stream and normalising the sum, which is bytes and nothing else."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import add_layer_norm

from .work import Place, Work, plain

EPS = 1e-6


def works(place: Place) -> Iterator[Work]:
    """A student of 1,024 images at 50 tokens forward and backward, a teacher at 197 forward."""
    for width in (384, 768)[: place.size(2, 1)]:
        for length, mode in ((50, "forward+backward"), (50, "forward"), (197, "forward")):
            yield work(place, mode, place.size(1024, 2), length, place.size(width, 32))


def work(place: Place, mode: str, batch: int, length: int, width: int) -> Work:
    """Forward reads x and the branch and writes sum and norm; backward reads both gradients and the sum, and writes."""
    gradient = mode != "forward"

    def inputs() -> tuple[Tensor, ...]:
        rows = (place.random(batch, length, width, gradient=gradient) for _ in range(2))
        return (*rows, *(place.random(width, gradient=gradient) for _ in range(2)))

    return Work(
        "add_layer_norm",
        mode,
        {"B": batch, "N": length, "D": width},
        inputs,
        {"eager": plain(apart), "compiled": place.compiled(apart), "ours": plain(together)},
        moved=batch * length * width * 2 * (8 if gradient else 4),
    )


def apart(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """As a block of timm's does it."""
    total = x + branch
    return total, F.layer_norm(total, weight.shape, weight, bias, EPS)


def together(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Ours."""
    return add_layer_norm(x, branch, weight, bias, EPS)
