"""How far predicted patches are from those of an image."""

from .op import normalized_pixel_mse

__all__ = ["normalized_pixel_mse"]
