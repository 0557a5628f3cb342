"""Whether features use all directions alike: three measures, of which none needs labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import pick_device
from .features import checked, several
from .images import images_of
from .subject import Options, kinds_of, open_method, open_splits

PAIRS = 10_000
CHUNK = 4096


def mean_cosine(features: Tensor, pairs: int = PAIRS, seed: int = 0) -> float:
    """mean of cos(x_i, x_j) over random pairs i != j: 0 where directions are alike, 1 where there is one. [N, D]

    >>> mean_cosine(torch.ones(5, 3))
    1.0
    """
    generator, count = torch.Generator().manual_seed(seed), len(features)
    first = torch.randint(count, (pairs,), generator=generator)
    second = (first + torch.randint(1, max(2, count), (pairs,), generator=generator)) % count
    unit = F.normalize(features.double(), dim=1)
    return round((unit[first] * unit[second]).sum(1).mean().item(), 12)


def gram(features: Tensor) -> Tensor:
    """X^T X in double precision, a chunk of rows at a time. [N, D] -> [D, D]"""
    total = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for part in features.split(CHUNK):
        total += part.double().T @ part.double()
    return total


def partition_ratio(features: Tensor) -> float:
    """min_u Z(u) / max_u Z(u), Z(u) = sum_x exp(u . x), u the eigenvectors of X^T X and their opposites. [N, D]

    In (0, 1], 1 where directions are alike (Mu and Viswanath, arXiv:1702.01417; an eigenvector has no sign, so both
    are taken). It depends on the features' scale.

    >>> partition_ratio(torch.cat([torch.eye(3), -torch.eye(3)]))
    1.0
    """
    directions = torch.linalg.eigh(gram(features)).eigenvectors
    logs = []
    for part in features.split(CHUNK):
        along = part.double() @ directions
        logs.append(torch.cat([along.logsumexp(0), (-along).logsumexp(0)]))
    sums = torch.stack(logs).logsumexp(0)
    return (sums.min() - sums.max()).exp().item()


def effective_rank(features: Tensor) -> float:
    """exp(-sum_i p_i ln p_i), p the singular values of X over their sum: from 1 to D (Roy and Vetterli, 2007). [N, D]

    >>> round(effective_rank(torch.eye(4)), 6)
    4.0
    """
    singular = torch.linalg.svdvals(features.double()) if len(features) <= CHUNK else rooted(gram(features))
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp().item()


def rooted(squares: Tensor) -> Tensor:
    """Singular values from X^T X; what rounding alone has made is none."""
    values = torch.linalg.eigvalsh(squares)
    least = values.max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > least, values, 0.0).sqrt()


def measures(features: Tensor, seed: int = 0) -> dict[str, float]:
    """All three."""
    return {
        "mean_cosine": mean_cosine(features, seed=seed),
        "partition_ratio": partition_ratio(features),
        "effective_rank": effective_rank(features),
    }


def evaluate(checkpoint: Path, data: Path | None, options: Options) -> dict[str, Any]:
    """The measures of a checkpoint's features of the second split, or of all images where there is only one."""
    subject = open_method(checkpoint)
    train, val = open_splits(subject.recipe, data)
    source, encoder = val or train, subject.method.backbone().to(pick_device(options.device))
    kinds = (checked(options.features, encoder),) if options.features else kinds_of(subject.recipe)
    with options.progress("images", images_of(options.limit, source)) as advance:
        found, numbers = several(encoder, source, kinds, options, advance)
    return {
        "protocol": "isotropy",
        "checkpoint": str(checkpoint),
        "step": subject.step,
        **{kind: {"width": rows.shape[1], **measures(rows, options.seed)} for kind, rows in found.items()},
        "images": len(numbers),
        "pairs": PAIRS,
        "split": "train" if val is None else "val",
    }
