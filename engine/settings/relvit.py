"""Settings of RelViT (arXiv:2206.00481)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from .sections import Encoder, Labelled
from .strict import NotNegative, Problem, Quadruple, Share, Shares

RELATIONS = 9
TASKS = ("relations", "places", "distances", "angles")  # of the patches
Side = Annotated[int, Field(ge=2)]


class Settings(Labelled):
    """Published values; see methods/relvit.py for what they mean."""

    name: Literal["relvit"] = "relvit"
    relations: NotNegative = 1.0  # weight of each task; 0: off
    places: NotNegative = 1.0
    distances: NotNegative = 0.0
    angles: NotNegative = 0.0
    classification: NotNegative = 0.0
    smoothing: Share = 0.0  # of the labels of relations
    class_in_patches: bool = False  # the class token is added to every patch's
    crop_scale: Shares = (0.08, 1.0)
    padding: Annotated[int, Field(ge=0)] = 0  # of a shifted square, in place of a crop of random size
    flip: Share = 0.5
    patch_crop: Literal["random", "center", "none"] = "random"  # of each patch, which is then resized to what it was
    patch_jitter: Quadruple = (0.4, 0.4, 0.4, 0.1)
    patch_jitter_probability: Share = 0.8
    patch_gray: Share = 0.2
    patch_noise: Share = 0.0  # how often a patch shows noise only
    official_order: bool = False  # patches change after normalisation, where jitter cuts them to [0, 1]
    shuffle: bool | None = None  # null: where the encoder knows of places by itself (swin_tiny, t2t_vit_14)
    mega_patches: Side | None = None  # so many rows and columns of uneven cells, each resized to a patch
    official_axes: bool = False  # columns are as wide as rows are high

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of the patches that are on."""
        return tuple(task for task in TASKS if getattr(self, task))

    @property
    def changes_patches(self) -> bool:
        """Whether any patch changes by itself."""
        jitter = any(self.patch_jitter) and self.patch_jitter_probability > 0
        return self.patch_crop != "none" or jitter or self.patch_gray > 0 or self.patch_noise > 0

    def shuffles(self, encoder: Encoder) -> bool:
        """Whether patches change their places, with this encoder."""
        return not encoder.plain if self.shuffle is None else self.shuffle

    def with_data(self, classes: int | None) -> Settings:
        """The number of classes, which only classification needs."""
        return super().with_data(classes) if self.classification else self

    def conflicts(self) -> Iterator[Problem]:
        """Nothing to learn, and keys that would do nothing."""
        yield from super().conflicts()
        if not self.tasks and not self.classification:
            yield Problem("relations", self.relations, "and no other task is on; one weight must be more than 0")
        if self.patch_jitter[3] > 0.5:
            yield Problem("patch_jitter", self.patch_jitter, "the last, hue, must be at most 0.5")
        idle = {
            "smoothing": (not self.relations, "relations is 0", 0.0),
            "class_in_patches": (not self.tasks, "no patch has a task", False),
            "classes": (not self.classification, "classification is 0", None),
            "official_order": (not self.changes_patches, "no patch changes", False),
            "official_axes": (self.mega_patches is None, "mega_patches is null", False),
        }
        for key, (useless, why, off) in idle.items():
            if useless and getattr(self, key) != off:
                must = str("null" if off is None else off).lower()
                yield Problem(key, getattr(self, key), f"does nothing where {why}; must be {must}")

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """Grids without relations, heads without width, a class token that is not there."""
        yield from super().misfits(encoder)
        grid, width = encoder.image_size // encoder.patch_size, encoder.shape[0]
        if self.padding >= encoder.image_size:
            yield Problem("padding", self.padding, f"must be less than encoder.image_size={encoder.image_size}")
        if self.mega_patches is not None and self.mega_patches >= grid:
            must = f"must be less than the {grid} patches along a side of the image"
            yield Problem("mega_patches", self.mega_patches, must if grid > 2 else f"{must}, so null")
        if self.tasks and grid < 2:
            text = "an image of one patch has no other place; encoder.image_size must be two patches or more"
            yield Problem(self.tasks[0], getattr(self, self.tasks[0]), text)
        if self.relations and width < RELATIONS:
            text = f"needs a head for each of {RELATIONS} classes; encoder.width={width} must be at least {RELATIONS}"
            yield Problem("relations", self.relations, text)
        if self.class_in_patches and encoder.name == "swin_tiny":
            yield Problem("class_in_patches", True, "swin_tiny has no class token; must be false")
