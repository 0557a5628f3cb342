"""Settings of GMML (arXiv:2205.14986)."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from .backbones import CHOICES, SIZES
from .sections import Encoder, MethodSettings
from .strict import Count, Problem, Quadruple, Share, Shares, nearest_multiple

Blocks = Annotated[tuple[Count, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Some = Annotated[float, Field(gt=0, le=1)]


class Settings(MethodSettings):
    """Published values; see methods/gmml.py for what they mean."""

    name: Literal["gmml"] = "gmml"
    align: Count | None = None  # groups begin and end at multiples of so many pixels; null: of the patch size
    anchor: Literal["corner", "centered"] = "corner"  # which point of a group is drawn: its top left, or its middle
    drop: Literal["noise", "zeros"] = "noise"
    drop_share: Some = 0.75  # of the pixels, at most; drawn from min(0.5, it) up
    replace_share: Some = 0.3  # of the pixels, where another image shows through instead
    replace_probability: Share = 0.5
    eight_bit: bool = True  # what is seen is rounded to 8 bits, noise cut at black and white; false: as published
    only_corrupted: bool = True  # the loss is of corrupted pixels; else of all
    blocks: Blocks | None = None  # whose mean is decoded; null: every second of the upper half (6, 8, 10, 12 of 12)
    global_scale: Shares = (0.05, 1.0)  # (0.25, 1) is the published choice beside small crops
    local_crops: Annotated[int, Field(ge=0)] = 0
    local_size: Count = 96
    local_scale: Shares = (0.05, 0.4)
    jitter: Quadruple = (0.1, 0.1, 0.1, 0.01)
    jitter_probability: Share = 0.3
    blur: Share = 0.1

    def decoded(self, depth: int) -> tuple[int, ...]:
        """The blocks whose mean is decoded, of an encoder of so many."""
        return self.blocks or tuple(range(depth, max(1, depth // 2) - 1, -2))[::-1]

    def unit(self, encoder: Encoder) -> int:
        """Pixels to which groups are aligned."""
        return self.align or encoder.patch_size

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """Groups that do not fit the images, and blocks that the encoder does not have."""
        yield from super().misfits(encoder)
        if not encoder.plain:
            plain = ", ".join(name for name in SIZES if name not in CHOICES)
            text = f"reads a token of each patch after several blocks, which {encoder.name} does not have everywhere"
            yield Problem("name", self.name, f"{text}; must be one of {plain} in encoder.name")
        sizes = {"encoder.image_size": encoder.image_size}
        sizes |= {"local_size": self.local_size} if self.local_crops else {}
        for key, size in sizes.items():
            if self.align and size % self.align:
                nearest = nearest_multiple(size, self.align)
                yield Problem("align", self.align, f"must divide {key}={size}; the nearest size is {nearest}")
        yield from self.wrong_blocks(encoder.shape[1])

    def wrong_blocks(self, depth: int) -> Iterator[Problem]:
        """Those after the last one named would learn nothing."""
        chosen = self.blocks
        if chosen is not None and (list(chosen) != sorted({*chosen}) or not chosen or chosen[-1] != depth):
            yield Problem("blocks", chosen, f"must ascend and end with the encoder's last, {depth}")
