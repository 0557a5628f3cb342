"""Run by torchrun: what DINO's loss, gradients and centre are for this rank's part of a batch, written by the first."""

import sys

import torch

from vitkiln.engine import distributed, methods
from vitkiln.engine.settings import Encoder, dino
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2, position="learned", drop_path=0.2)
SMALL = {"local_crops": 2, "local_size": 16, "hidden": 32, "bottleneck": 16, "output": 24, "koleo": 0.1}


def after_a_step(centering: str, size: int = 8) -> dict[str, torch.Tensor]:
    """Of the whole batch, whatever the number of ranks."""
    torch.manual_seed(0)
    method = methods.find("dino")(dino.Settings(**SMALL, centering=centering), ENCODER).double()
    views = [torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8) for side in (32, 32, 16, 16)]
    share = size // distributed.world()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    batch = Batch(tuple(view[mine] for view in views), torch.arange(size)[mine], torch.tensor([0, 5]))
    model = distributed.parallel(method, torch.device("cpu"))
    total = model(batch).total
    total.backward()
    method.frozen = False
    method.after_backward()
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return {**found, "center": method.center, "total": distributed.mean_over_ranks(total.detach())}


if __name__ == "__main__":
    with distributed.ranks(torch.device("cpu")):
        both = {f"{way} {name}": x for way in ("mean", "sinkhorn") for name, x in after_a_step(way).items()}
        if distributed.rank() == 0:
            torch.save(both, sys.argv[1])
