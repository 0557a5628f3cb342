"""Run by torchrun: contrastive losses of this rank's part of a batch, and the gradients of its rows."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from vitkiln.engine import distributed
from vitkiln.kernels import info_nce, nt_xent, sup_con
from vitkiln.kernels.contrastive import ring_info_nce

ROWS = 12


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Two views of all ranks' images and their labels."""
    made = torch.Generator().manual_seed(0)
    first, second = (torch.randn(ROWS, 5, dtype=torch.float64, generator=made) for _ in range(2))
    return first, second, torch.randint(0, 4, (ROWS,), generator=made)


def losses(first: Tensor, second: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of the joined batch where there is one rank."""
    gather = distributed.gather_with_gradient
    offset, views = distributed.rank() * len(first), torch.stack([first, second], 1)
    return {
        "ring": ring_info_nce(first, second, 0.2).mean(),
        "ring of plain rows": ring_info_nce(first, second, 0.5, normalize=False).mean(),
        "info_nce": info_nce(first, gather(second), 0.2, offset).mean(),
        "nt_xent": nt_xent(first, second, 0.2, gather(first), gather(second), offset),
        "sup_con": sup_con(views, labels, 0.2, 0.1, gather(views), distributed.gather(labels), offset),
    }


def results() -> dict[str, tuple[Tensor, ...]]:
    """Of each loss its mean over ranks, and the gradients of this rank's rows for that mean."""
    share = ROWS // distributed.world()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    first, second, labels = (x[mine] for x in batch())
    leaves, found = (first.requires_grad_(), second.requires_grad_()), {}
    for name, loss in losses(first, second, labels).items():
        grads = torch.autograd.grad(loss, leaves, retain_graph=True)
        found[name] = (distributed.mean_over_ranks(loss.detach()), *(g / distributed.world() for g in grads))
    return found


if __name__ == "__main__":
    with distributed.ranks(torch.device("cpu")):
        torch.save(results(), Path(sys.argv[1]) / f"{distributed.rank()}.pt")
