"""From pixels to tokens, reading only the patches that are kept."""

from .op import patch_embed

__all__ = ["patch_embed"]
