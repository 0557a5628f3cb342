"""Whether features use all directions alike: three measures, of which none needs labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.source import Source, open_source
from ..device import pick_device
from ..recipe import Recipe
from ..vit import ViT
from .features import checked, several
from .images import images_of
from .subject import Options, kinds_of, open_method, open_splits

PAIRS = 10_000
IMAGES = 10_000  # that the end of a run looks at, at most
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


def before_and_after(before: ViT, after: ViT, recipe: Recipe, source: Source, device: torch.device) -> dict[str, Any]:
    """The measures of two encoders' features of the same images: of the second split, or of the only one."""
    val = open_source(recipe.data, recipe.run.seed, "val")
    options = Options(workers=recipe.data.workers, limit=min(IMAGES, recipe.run.knn_images))
    kinds = kinds_of(recipe)[:1]
    measured = {}
    for name, encoder in (("before", before), ("after", after)):
        found, numbers = several(encoder.to(device), val or source, kinds, options)
        measured[name] = measures(found[kinds[0]])
    split = "train" if val is None else "val"
    return {"protocol": "isotropy", "features": kinds[0], **measured, "images": len(numbers), "split": split}


def told(result: dict[str, Any]) -> str:
    """One line: before, and after."""
    before, after = result["before"], result["after"]
    moved = ", ".join(f"{name.replace('_', ' ')} {before[name]:.4g} -> {after[name]:.4g}" for name in before)
    return f"isotropy of {result['features']} before -> after: {moved} ({result['images']} images of {result['split']})"


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
