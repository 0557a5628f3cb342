"""Embedding the patches that are kept, beside embedding all and dropping three quarters."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import patch_embed

from .plan import draw
from .work import Place, Work, plain

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCH = 16


def works(place: Place) -> Iterator[Work]:
    """A student, 49 of 196 patches, with gradients and without; a teacher, all of them, without."""
    for width in (384, 768)[: place.size(2, 1)]:
        for mode, sparse in (("forward+backward", True), ("forward", True), ("forward", False)):
            yield work(place, mode, sparse, place.size(1024, 2), place.size(width, 32))


def work(place: Place, mode: str, sparse: bool, batch: int, width: int) -> Work:
    """Bytes: kept pixels, tokens, tables; backward the pixels again, the tokens' gradient, the tables' in fp32."""
    gradient = mode != "forward"
    side = place.size(224, 64)
    patches = (side // PATCH) ** 2
    kept = patches // 4 if sparse else patches

    def inputs() -> tuple[Any, ...]:
        images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=place.device)
        shapes = (width, 3, PATCH, PATCH), (width,), (patches, width), (1, width)
        tables = [(torch.randn(shape, device=place.device) * 0.1).requires_grad_(gradient) for shape in shapes]
        keep, told, _, _ = draw(place, batch, patches, kept)
        return (images, *tables, keep, told) if sparse else (images, *tables)

    mean, std = (torch.tensor(values, device=place.device).view(3, 1, 1) for values in (MEAN, STD))
    pixels, tokens = batch * kept * 3 * PATCH**2, batch * (1 + kept) * width * 2
    weights = 3 * PATCH**2 * width
    return Work(
        "patch_embed",
        mode,
        {"B": batch, "P": patches, "K": kept, "D": width},
        inputs,
        {
            "eager": plain(partial(dense, place, mean, std)),
            "compiled": place.compiled(lambda *given: dense(place, mean, std, *given)),
            "ours": plain(partial(ours, place)),
        },
        moved=(pixels + tokens + 4 * weights) * (2 if gradient else 1),
        flops=2 * batch * kept * weights * (2 if gradient else 1),
    )


def ours(place: Place, *given: Any) -> Tensor:
    """Under autocast, from uint8 as it is."""
    with torch.autocast(place.device.type, torch.bfloat16, enabled=not place.tiny):
        return patch_embed(*given, mean=MEAN, std=STD)


def dense(
    place: Place,
    mean: Tensor,
    std: Tensor,
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    cls_token: Tensor,
    keep: Tensor | None = None,
    told: Tensor | None = None,
) -> Tensor:
    """As trainers do it: normalise, convolve everything, gather, add."""
    pixels = ((images.permute(0, 3, 1, 2) / 255 - mean) / std).to(place.dtype)
    with torch.autocast(place.device.type, torch.bfloat16, enabled=not place.tiny):
        tokens = F.conv2d(pixels, weight, bias, stride=PATCH).flatten(2).mT
    if keep is not None and told is not None:
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2])) + position[told]
    else:
        tokens = tokens + position
    return torch.cat([cls_token.expand(len(images), 1, -1), tokens], 1).to(place.dtype)
