"""What methods, evaluation and export may ask of any encoder, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from .settings import Encoder
from .vocabulary import Plan

EVERYTHING = Plan()


class Backbone(nn.Module):
    """An encoder: images to tokens, and to one row that stands for the image."""

    settings: Encoder
    width: int  # D, of what comes out
    prefix: int  # tokens before those of the patches
    norm: nn.Module  # the last
    grid: int  # tokens along a side of an image of `settings.image_size`

    def forward(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        """Tokens after the last norm: the prefix, then the patches in the plan's order, else row by row.

        images uint8 or float [B, H, W, 3] or [B, 3, H, W]; branches [B, depth, 2] or None -> [B, prefix + K, D]
        """
        raise NotImplementedError

    def class_token(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        """The row that stands for the image: [B, D]"""
        raise NotImplementedError

    def stream(self, images: Tensor, branches: Tensor | None = None) -> Tensor:
        """The tokens of every patch before the last norm, without the prefix: [B, P, D]"""
        raise NotImplementedError

    def adapt(self, state: dict[str, Tensor]) -> str | None:
        """Fit weights, in place, that depend on the size of the image; says what begins anew or is left out."""
        raise NotImplementedError

    def parts(self) -> list[nn.Module]:
        """Its blocks, in the order in which they are computed: drop path, rates and compilation go by them."""
        return [*cast("Iterable[nn.Module]", self.blocks)]

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches; ValueError where they do not tile the image."""
        height, width = images.shape[1:3] if images.shape[-1] == 3 else images.shape[2:]
        size = self.settings.patch_size
        if height % size or width % size:
            raise ValueError(f"images: {height} x {width} pixels; must be multiples of the patch size {size}")
        return height // size, width // size

    def normalised(self, images: Tensor) -> Tensor:
        """(x - mean) / std with x in [0, 1]. uint8 or float [B, H, W, 3] or [B, 3, H, W] -> [B, 3, H, W]"""
        pixels = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        scaling = zip(pixels.unbind(1), self.settings.mean, self.settings.std, strict=True)
        return torch.stack([(channel - mean) / std for channel, mean, std in scaling], 1)  # no number is sent along


def refuse_parts(plan: Plan, name: str) -> None:
    """ValueError where a plan hides or moves patches of an encoder that sees each at its place."""
    if plan.keep is not None or plan.place is not None:
        raise ValueError(f"plan: keeps or moves patches; {name} sees every patch at its place")
