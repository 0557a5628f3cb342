"""What `data:` says of pictures that formulas draw: which formulas, how many pictures of each, and their look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from .strict import Count, Problem, Section

Style = Literal["patch_gray", "patch_color", "point_gray", "point_color", "contour_rcdb", "contour_atom"]
LARGEST = 16_384  # pixels along a side: coordinates have 16 bits


class Formulas(Section):
    """The keys of `data:` that concern the source `fractal`."""

    categories: Count = 32  # how many formulas, each of which is a class
    categories_root: str | None = None  # a folder of 00000.csv, ...; null: those of seed 1 by the published rule
    instances: Count = 64  # images drawn from each; 1: one image a class, the formula as it was found
    fractal_size: Annotated[int, Field(ge=16, le=LARGEST)] = 96  # pixels along a side
    fractal_points: Annotated[int, Field(ge=100)] = 20_000
    style: Style = "patch_gray"
    variation: Annotated[float, Field(gt=0, le=0.5)] = 0.4  # factors 1 +- variation, 1 +- 2 variation on a formula
    render: Literal["fast", "exact"] = "fast"  # exact: later points hide earlier ones, as published
    official: bool = False  # keep instances that diverge or show almost nothing, as published
    fractal_cache: Count = 256  # MiB in each worker for the points of formulas

    @property
    def contours(self) -> bool:
        """Whether polygons are drawn, not the points of iterated functions."""
        return self.style.startswith("contour")

    def conflicts(self) -> Iterator[Problem]:
        """Keys that would do nothing."""
        yield from super().conflicts()
        if self.contours and self.categories_root is not None:
            text = f"style={self.style} makes its own categories; must be null"
            yield Problem("categories_root", self.categories_root, text)
