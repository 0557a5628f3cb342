"""Too little memory: how it is known, and how a process that goes on gets back what a failed step held."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from ..train import Trainer

LACKS = ("can't allocate memory", "out of memory")  # a CPU's, and what CUDA says outside of PyTorch's allocator


def is_lack(error: BaseException) -> bool:
    """Whether the error says that memory, of the GPU or of the machine, was too small."""
    first = str(error).split("\n")[0]
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in first for text in LACKS)


def fits(call: Callable[[], Any]) -> bool:
    """Whether the call goes through; False where memory does not suffice for it."""
    try:
        call()
    except (MemoryError, RuntimeError) as error:
        if not is_lack(error):
            raise
        return False
    return True


def release(trainer: Trainer | None = None) -> None:
    """Give back gradients and whatever else is nobody's."""
    if trainer is not None:
        trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
