"""Losses that tell each embedding's partner from all others."""

from .nt_xent import nt_xent
from .op import info_nce

__all__ = ["info_nce", "nt_xent"]
