"""Add a branch to the residual stream and normalise the sum."""

from .op import add_layer_norm

__all__ = ["add_layer_norm"]
