"""Run by torchrun: losses and gradients of LaCViT for this rank's part of a batch, written by the first rank."""

import sys

import torch

from vitkiln.engine import distributed, methods
from vitkiln.engine.settings import Encoder, lacvit
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2, position="learned", drop_path=0.2)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])  # side by side, as n_pair wants them
WAYS = {
    "sup_con": {"gather": True},
    "nt_xent": {"loss": "nt_xent", "gather": True},
    "n_pair": {"loss": "n_pair", "gather": True},
    "chunked": {"gather": True, "chunk": 3},
    "alone": {},
}


def losses_and_gradients(way: str) -> dict[str, torch.Tensor]:
    """Of the whole batch, whatever the number of ranks; `alone` does as two ranks do, each for itself."""
    torch.manual_seed(0)
    method = methods.find("lacvit")(lacvit.Settings(**WAYS[way], hidden=16, output=8), ENCODER).double()
    images = torch.randint(0, 256, (len(method.views()), 8, 32, 32, 3), dtype=torch.uint8)
    world, rank = distributed.world(), distributed.rank()
    parts = [slice(4 * part, 4 * part + 4) for part in ([rank] if world > 1 else range(2))]
    parts = [slice(rank * 8 // world, (rank + 1) * 8 // world)] if way != "alone" else parts
    model = distributed.parallel(method, torch.device("cpu"))
    losses = [
        model(Batch(tuple(view[mine] for view in images), torch.arange(8)[mine], torch.tensor([0, 5]), LABELS[mine]))
        for mine in parts
    ]
    total = torch.stack([found.total for found in losses]).mean()
    total.backward()
    found = {f"{way} {key}": p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}
    return {**found, f"{way} total": distributed.mean_over_ranks(total.detach())}


if __name__ == "__main__":
    with distributed.ranks(torch.device("cpu")):
        result = {key: value for way in WAYS for key, value in losses_and_gradients(way).items()}
        if distributed.rank() == 0:
            torch.save(result, sys.argv[1])
