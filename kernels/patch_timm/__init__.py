"""Our operators inside the blocks of a model of timm's."""

from .patch import Patched, patch_timm

__all__ = ["Patched", "patch_timm"]
