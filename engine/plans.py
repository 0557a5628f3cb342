"""How plans are drawn: which patches an encoder sees, and what it is told of their places.

Views of a batch are drawn at once, in the order of `torch.cat(batch.views)`: all V of them, or the first `views`.
"""

import torch
from torch import Tensor

from vitkiln import kernels

from .vocabulary import Batch, Plan


def misplaced(batch: Batch, patches: int, kept: int, wrong_probability: float, views: int | None = None) -> Plan:
    """A random subset, `kept` of `patches`, a share of which are told the place of a patch that was dropped.

    Drawn for each image and view by itself, as a function of (seed, step, sample id, view): rows [V * B].
    """
    return Plan(*kernels.sample_tokens(batch.seed, numbers(batch, views), patches, kept, wrong_probability))


def branches(batch: Batch, depth: int, rate: float, views: int | None = None) -> Tensor | None:
    """Drop path: a factor for each of the two branches of each block, 0 at a rate that grows with depth, or 1/(1 - it).

    [V * B, depth, 2], or None where nothing is dropped. Deep networks with stochastic depth, arXiv:1603.09382.
    """
    if rate == 0:
        return None
    drawn = kernels.uniform(batch.seed, numbers(batch, views), 2 * depth).view(-1, depth, 2)
    rates = torch.linspace(0, rate, depth, device=drawn.device)[:, None]
    return (drawn >= rates) / (1 - rates)


def numbers(batch: Batch, views: int | None = None) -> Tensor:
    """A number for each view of each sample, whichever rank holds it, view by view: [V * B]"""
    those = torch.arange(len(batch.views), device=batch.ids.device)[:views]
    return (batch.ids * len(batch.views) + those[:, None]).flatten()
