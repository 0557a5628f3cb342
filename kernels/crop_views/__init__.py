"""Boxes of many images at one size, to the bit as Pillow resizes them one by one."""

from .op import crop_views, ready

__all__ = ["crop_views", "ready"]
