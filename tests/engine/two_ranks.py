"""Run by torchrun: losses and gradients of this rank's part of a batch, written by the first rank."""

import sys

import torch

from vitkiln.engine import distributed, methods
from vitkiln.engine.settings import Encoder, dilemma, mae, simclr
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2)
HEADS = {"hidden": 64, "output": 16}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
SETTINGS = {
    "dilemma": dilemma.Settings(**HEADS, keep=0.5),
    "simclr": simclr.Settings(**HEADS),
    "mae": mae.Settings(**DECODER),
}


def losses_and_gradients(name: str, size: int = 8) -> dict[str, torch.Tensor]:
    """Of the whole batch, whatever the number of ranks."""
    torch.manual_seed(0)
    method = methods.find(name)(SETTINGS[name], ENCODER).double()
    images = torch.randint(0, 256, (len(method.views()), size, 32, 32, 3), dtype=torch.uint8)
    share = size // distributed.world()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    batch = Batch(tuple(view[mine] for view in images), torch.arange(size)[mine], torch.tensor([0, 5]))
    model = distributed.parallel(method, torch.device("cpu"))  # holds the buckets that gradients are views of
    total = model(batch).total
    total.backward()
    found = {f"{name} {key}": p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}
    return {**found, f"{name} total": distributed.mean_over_ranks(total.detach())}


if __name__ == "__main__":
    with distributed.ranks(torch.device("cpu")):
        result = {key: value for name in SETTINGS for key, value in losses_and_gradients(name).items()}
        if distributed.rank() == 0:
            torch.save(result, sys.argv[1])
