"""Losses that tell each embedding's partner from all others."""

from .n_pair import n_pair
from .nt_xent import nt_xent
from .op import info_nce
from .ring import ring_info_nce
from .sup_con import sup_con

__all__ = ["info_nce", "n_pair", "nt_xent", "ring_info_nce", "sup_con"]
