"""Colour, blur and flip of many crops at once, to the bit as Pillow does them one by one."""

from . import columns as layout
from .op import augment_views

__all__ = ["augment_views", "layout"]
