"""A step as one CUDA graph: where that is possible, and how a run takes its steps then."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from . import optim
from .cuda_tape import CudaTape
from .errors import MissingBackend, RecipeError
from .recipe import Recipe
from .recorder import WARM, Recorder
from .step import dial, update

if TYPE_CHECKING:
    from .train import Trainer

WARM_RANKS = 11  # DistributedDataParallel watches ten steps before its buckets stay as they are


def refuse(recipe: Recipe, device: torch.device) -> None:
    """Where `run.cuda_graph` can be known to be impossible; before ranks meet, which find out how to."""
    if not recipe.run.cuda_graph:
        return
    if device.type != "cuda":
        raise MissingBackend("run.cuda_graph: needs a CUDA device; this run is on the CPU")
    final = recipe.optim.final_weight_decay
    if final is not None and not optim.decays_in_tensors(recipe.optim, device):
        who = f"the {recipe.optim.name} of optim.backend={optim.chosen(recipe.optim, device)}"
        text = f"optim.final_weight_decay={final:g} changes with time, which {who} takes as a number"
        raise RecipeError(f"run.cuda_graph: {text}, and a graph would keep it; must be null, or optim.backend=one_pass")
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # as PyTorch asks of whoever records collectives


def stream_for(recipe: Recipe, device: torch.device) -> torch.cuda.Stream | None:
    """Where steps are recorded; DistributedDataParallel must be built in it."""
    return torch.cuda.Stream(device) if recipe.run.cuda_graph else None


def recorder(trainer: Trainer, stream: torch.cuda.Stream) -> Recorder:
    """What takes a run's steps. MissingBackend where ranks meet in a way that no graph can repeat."""
    backend = dist.get_backend() if dist.is_initialized() else None
    if backend not in (None, "nccl"):
        raise MissingBackend(f"run.cuda_graph: collectives of {backend} cannot be recorded; ranks need NCCL")
    return Recorder(
        partial(update, trainer),
        trainer.method,
        CudaTape(trainer.optimizer, stream),
        parts=trainer.recipe.run.accumulate,
        warm=WARM if backend is None else WARM_RANKS,
        again=partial(dial, trainer),
    )
