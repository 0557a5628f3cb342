"""Groups of neighbouring pixels: drawn, shown as something else, and what reconstructing them costs."""

from .corrupt import corrupt_groups
from .loss import masked_l1
from .mask import group_mask

__all__ = ["corrupt_groups", "group_mask", "masked_l1"]
