"""Losses of other packages that compute InfoNCE without its matrix, where they are installed.

Cut cross-entropy and Liger have it as the loss of a vocabulary whose embeddings are the keys. They want a GPU.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from .work import Place, Provider

Loss = Callable[[Tensor, Tensor], Tensor]


def installed(place: Place, temperature: float) -> dict[str, Provider]:
    """By name; imported when its turn comes."""
    losses = {"inf_cl": inf_cl, "cut_cross_entropy": cut_cross_entropy, "liger_kernel": liger}
    there = {} if place.tiny else {name: make for name, make in losses.items() if find_spec(name)}
    return {name: lambda make=make: make(temperature) for name, make in there.items()}  # type: ignore[misc]


def positives(query: Tensor) -> Tensor:
    """Row i's is key i."""
    return torch.arange(len(query), device=query.device)


def inf_cl(temperature: float) -> Loss:
    """Inf-CL (arXiv:2410.17243): a loss for each row, heads of 256 channels."""
    loss = import_module("inf_cl").cal_flash_loss

    def rows(query: Tensor, key: Tensor) -> Tensor:
        unit = F.normalize(query, dim=1), F.normalize(key, dim=1)
        return torch.as_tensor(loss(*unit, positives(query), scale=1 / temperature))

    return rows


def cut_cross_entropy(temperature: float) -> Loss:
    """Cut cross-entropy (arXiv:2411.09009): a loss for each row."""
    loss = import_module("cut_cross_entropy").linear_cross_entropy

    def rows(query: Tensor, key: Tensor) -> Tensor:
        unit = F.normalize(query, dim=1) / temperature, F.normalize(key, dim=1)
        return torch.as_tensor(loss(*unit, positives(query), reduction="none"))

    return rows


def liger(temperature: float) -> Loss:
    """Liger-Kernel's fused linear cross-entropy: the mean alone."""
    loss = import_module("liger_kernel.transformers.functional").liger_fused_linear_cross_entropy

    def mean(query: Tensor, key: Tensor) -> Tensor:
        return torch.as_tensor(loss(F.normalize(query, dim=1) / temperature, F.normalize(key, dim=1), positives(query)))

    return mean
