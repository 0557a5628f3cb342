"""Losses over many prototypes, whose products with features are never kept."""

from .op import prototype_cross_entropy
from .sinkhorn import sinkhorn_center

__all__ = ["prototype_cross_entropy", "sinkhorn_center"]
