"""Draw which patches are seen, and which of them are told a wrong place."""

from .op import sample_tokens

__all__ = ["sample_tokens"]
