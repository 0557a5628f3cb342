"""Settings of MAE (arXiv:2111.06377)."""

from collections.abc import Iterator
from math import ceil, lcm
from typing import Literal

from .sections import Encoder, MethodSettings, kept
from .strict import Count, Problem, Share, Shares, nearest_multiple


class Settings(MethodSettings):
    """Published values; see methods/mae.py for what they mean."""

    name: Literal["mae"] = "mae"
    keep: Share = 0.25  # share of the patches that the encoder sees
    norm_pix: bool = True  # each patch by its own mean and deviation is the target; else its normalised pixels
    decoder_width: Count = 512
    decoder_depth: Count = 8
    decoder_heads: Count = 16
    crop_scale: Shares = (0.2, 1.0)

    def conflicts(self) -> Iterator[Problem]:
        """Sizes of the decoder that do not divide."""
        yield from super().conflicts()
        width, unit = self.decoder_width, lcm(self.decoder_heads, 4)
        if width % unit:
            units = f"decoder_heads={self.decoder_heads}, and of 4 for sin-cos positions"
            nearest = nearest_multiple(width, unit)
            yield Problem("decoder_width", width, f"must be a multiple of {units}; the nearest is {nearest}")

    def misfits(self, encoder: Encoder) -> Iterator[Problem]:
        """Nothing to see, or nothing to guess."""
        yield from super().misfits(encoder)
        yield from self.needs_plain(encoder)
        patches, seen = encoder.patches, kept(encoder.patches, self.keep)
        if patches == 1:
            yield Problem(
                "keep", self.keep, "an image of one patch has none to hide; encoder.image_size must exceed a patch"
            )
        elif seen == 0:
            least = ceil(1e4 / patches) / 1e4
            yield Problem("keep", self.keep, f"keeps none of {patches} patches; must be at least {least:g}")
        elif seen == patches:
            yield Problem("keep", self.keep, f"hides none of {patches} patches; must be less than 1")
