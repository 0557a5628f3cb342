"""Run by torchrun: the loss and gradients of this rank's part of a batch, written by the first rank."""

import sys

import torch

from vitkiln.engine import distributed, methods
from vitkiln.engine.settings import Encoder, dilemma
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2)
SETTINGS = dilemma.Settings(hidden=64, output=16, keep=0.5)


def losses_and_gradients(size: int = 8) -> dict[str, torch.Tensor]:
    """Of the whole batch, whatever the number of ranks."""
    torch.manual_seed(0)
    method = methods.find("dilemma")(SETTINGS, ENCODER).double()
    images = torch.randint(0, 256, (2, size, 32, 32, 3), dtype=torch.uint8)
    share = size // distributed.world()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    batch = Batch(tuple(view[mine] for view in images), torch.arange(size)[mine], torch.tensor([0, 5]))
    model = distributed.parallel(method, torch.device("cpu"))  # holds the buckets that gradients are views of
    total = model(batch).total
    total.backward()
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return {**found, "total": distributed.mean_over_ranks(total.detach())}


if __name__ == "__main__":
    with distributed.ranks(torch.device("cpu")):
        result = losses_and_gradients()
        if distributed.rank() == 0:
            torch.save(result, sys.argv[1])
