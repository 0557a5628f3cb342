"""Operators bear the name of the package that holds them, so that a copy elsewhere does not collide."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef

NAMESPACE = __name__.partition(".")[0]


def operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function as an operator that computes in the types it is given, whatever autocast says."""

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @wraps(function)
        def body(*arguments: Any) -> Any:
            device = next(a.device.type for a in arguments if isinstance(a, Tensor))
            with torch.autocast(device, enabled=False):
                return function(*arguments)

        return torch.library.custom_op(f"{NAMESPACE}::{name}", body, mutates_args=())

    return register


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast would compute in where the tensor is, or None outside of autocast and for float64."""
    kind = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)
