"""Self-attention over packed projections, whatever kernel carries it."""

from .op import attention, class_attention

__all__ = ["attention", "class_attention"]
