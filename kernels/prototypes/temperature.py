"""Temperatures as operators take them: scalar tensors, whose value may change without compiling anew."""

import torch
from torch import Tensor

from .._shared.checks import beside, refusal

Temperature = float | Tensor


def scalar(name: str, temperature: Temperature, like: Tensor, dtype: torch.dtype) -> Tensor:
    """The same number, beside a tensor; ValueError where it is not positive, or is no scalar of that device."""
    if isinstance(temperature, Tensor):
        if temperature.dim() or not temperature.dtype.is_floating_point:
            raise refusal(name, temperature, "a number or a floating point tensor []")
        beside(name, temperature, "the features", like)
        return temperature.detach().to(dtype)
    if not temperature > 0:
        raise refusal(name, temperature, "greater than 0")
    return like.new_full((), temperature, dtype=dtype)
