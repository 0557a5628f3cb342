"""Tell which tokens were given a wrong place."""

from .op import detection_loss

__all__ = ["detection_loss"]
