"""The nine relations of all pairs of patches, beside the formula that builds their logits."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import relation_loss
from vitkiln.kernels.relation_loss import relation_labels

from .work import Place, Work, forcing, plain


def works(place: Place) -> Iterator[Work]:
    """ViT-S over 14 by 14 patches, forward and both ways, and over 8 by 8, as on CIFAR-10; ViT-B."""
    shapes = [(14, 42, "forward"), (14, 42, "forward+backward"), (8, 42, "forward+backward")]
    for side, width, mode in [*shapes, (14, 85, "forward+backward")][: place.size(4, 2)]:
        yield work(place, mode, place.size(256, 2), place.size(side, 3), width)


def work(place: Place, mode: str, batch: int, side: int, width: int) -> Work:
    """Bytes: queries and keys, read in either pass, and gradients. Operations: a product forward, three backward."""
    gradient, length = mode != "forward", side**2

    def inputs() -> tuple[Tensor, ...]:
        shape = batch, length, 9, width
        query, key = (place.random(*shape).transpose(1, 2).requires_grad_(gradient) for _ in range(2))
        patch = torch.arange(length, device=place.device)
        return query, key, patch // side, patch % side

    return Work(
        "relation_loss",
        mode,
        {"B": batch, "N": length, "d": width},
        inputs,
        {
            "eager": plain(whole),
            "compiled": place.compiled(whole),
            "torch": forcing("torch", "relation_loss", relation_loss),
            "ours": plain(relation_loss),
        },
        moved=2 * batch * 9 * length * width * (6 if gradient else 2),
        flops=2 * batch * 9 * length**2 * width * (4 if gradient else 1),
    )


def whole(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
    """Products in the type of query and key, and the loss in fp32, as under autocast."""
    logits = (query @ key.mT / math.sqrt(query.shape[3])).float()
    label = relation_labels(rows, cols).expand(len(query), -1, -1)
    return F.cross_entropy(logits, label), (logits.argmax(1) == label).float().mean()
