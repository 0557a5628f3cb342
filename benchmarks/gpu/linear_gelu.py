"""The first layer of an MLP with its GELU, beside the bare product: what the rest costs on top."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import linear_gelu

from .work import Place, Work, plain


def works(place: Place) -> Iterator[Work]:
    """ViT-S and ViT-B at the tokens of a student, forward and backward, and of a teacher, forward."""
    for width in (384, 768)[: place.size(2, 1)]:
        for tokens, mode in ((51_200, "forward+backward"), (51_200, "forward"), (201_728, "forward")):
            yield work(place, mode, place.size(tokens, 24), place.size(width, 32))


def work(place: Place, mode: str, tokens: int, width: int) -> Work:
    """Bytes: input and output, and in training the pre-activation, written and read again."""
    gradient, hidden = mode != "forward", 4 * width

    def inputs() -> tuple[Tensor, ...]:
        shapes = (tokens, width), (hidden, width), (hidden,)
        scales = 1.0, width**-0.5, 1.0
        made = [place.random(*shape) * scale for shape, scale in zip(shapes, scales, strict=True)]
        return tuple(tensor.requires_grad_(gradient) for tensor in made)

    moved = 2 * tokens * (width + hidden) + 2 * width * hidden
    return Work(
        "linear_gelu",
        mode,
        {"T": tokens, "D": width, "F": hidden},
        inputs,
        {
            "eager": plain(apart),
            "compiled": place.compiled(apart),
            "ours": plain(linear_gelu),
            "bare product": plain(lambda x, weight, _: F.linear(x, weight)),
        },
        moved=moved + (2 * tokens * (2 * width + 3 * hidden) + 4 * width * hidden) * gradient,
        flops=2 * tokens * width * hidden * (3 if gradient else 1),
        incomparable=("bare product",),
    )


def apart(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As an MLP of timm's does it."""
    return F.gelu(F.linear(x, weight, bias))
