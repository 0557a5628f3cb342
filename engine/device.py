"""Which device a run uses."""

import torch

from . import distributed
from .errors import MissingBackend


def pick_device(wanted: str) -> torch.device:
    """`auto` is a GPU where there is one; each rank takes its own."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MissingBackend("run.device=cuda: PyTorch sees no GPU here; see `engine doctor`, or set run.device=cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)
    return device
