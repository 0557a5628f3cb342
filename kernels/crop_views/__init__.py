"""Boxes of many images at one size, to the bit as Pillow resizes them one by one."""

from . import request as asked
from .op import crop_views, ready

__all__ = ["asked", "crop_views", "ready"]
