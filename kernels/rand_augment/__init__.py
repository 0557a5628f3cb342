"""RandAugment of many pictures at once, each operation as Pillow does it one by one."""

from . import columns as layout
from .op import rand_augment

__all__ = ["layout", "rand_augment"]
