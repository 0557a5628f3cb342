"""Where every patch lies as seen from every other: nine classes, and the loss of nine heads that tell them apart."""

from .op import relation_loss
from .reference import relation_labels

__all__ = ["relation_labels", "relation_loss"]
