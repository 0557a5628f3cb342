"""Pictures of iterated function systems, and the search for systems that fill a picture, as FractalDB defines them."""

from .._shared.native import native_state
from .op import (
    Candidates,
    Support,
    draw_fractals,
    fill_rate,
    fractal_support,
    render_fractals,
    search_fractals,
    search_state,
    stacked,
)
from .reference import STYLES

__all__ = [
    "STYLES",
    "Candidates",
    "Support",
    "draw_fractals",
    "fill_rate",
    "fractal_support",
    "native_state",
    "render_fractals",
    "search_fractals",
    "search_state",
    "stacked",
]
