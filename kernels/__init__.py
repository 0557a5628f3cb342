"""Operators on images, patches and tokens, usable alone: they know torch and Triton, nothing of the engine."""
