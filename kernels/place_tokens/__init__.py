"""Keep some patches and tell each one where it is."""

from .op import place_tokens

__all__ = ["place_tokens"]
