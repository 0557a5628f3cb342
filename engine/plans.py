"""How plans are drawn: which patches an encoder sees, and what it is told of their places."""

import torch
from torch import Tensor

from vitkiln import kernels

from .vocabulary import Batch, Plan


def everything() -> Plan:
    """Every patch at its own place."""
    return Plan()


def misplaced(batch: Batch, view: int, patches: int, kept: int, wrong_probability: float) -> Plan:
    """A random subset, `kept` of `patches`, a share of which are told the place of a patch that was dropped.

    Drawn for each image and view by itself, as a function of (seed, step, sample id, view).
    """
    stream = batch.ids * len(batch.views) + view
    return Plan(*kernels.sample_tokens(batch.seed, stream, patches, kept, wrong_probability))


def branches(batch: Batch, view: int, depth: int, rate: float) -> Tensor | None:
    """Drop path: a factor for each of the two branches of each block, 0 at a rate that grows with depth, or 1/(1 - it).

    [B, depth, 2], or None where nothing is dropped. Deep networks with stochastic depth, arXiv:1603.09382.
    """
    if rate == 0:
        return None
    stream = batch.ids * len(batch.views) + view
    drawn = kernels.uniform(batch.seed, stream, 2 * depth, stream=2).view(-1, depth, 2)
    rates = torch.linspace(0, rate, depth, device=drawn.device)[:, None]
    return (drawn >= rates) / (1 - rates)
