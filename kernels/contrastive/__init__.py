"""Losses that tell each embedding's partner from all others."""

from .op import info_nce

__all__ = ["info_nce"]
