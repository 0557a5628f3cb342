"""A linear layer and its GELU in one pass."""

from .op import linear_gelu

__all__ = ["linear_gelu"]
