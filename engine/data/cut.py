"""Boxes of a decoded picture at the size of a view: by `crop_views` where it is built, else by Pillow, bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vitkiln.kernels.crop_views import crop_views, ready

from ..vocabulary import View
from .pixels import pixels
from .randaugment import FILTERS

SMALL = 64  # pixels along a side: for less Pillow is as fast


class Sheet:
    """A picture from which several views are cut. Older Pillows than 13 cut tall pictures a level apart."""

    def __init__(self, image: Image.Image):
        self.image = image
        self.pixels: torch.Tensor | None = None

    def cut(self, box: tuple[float, float, float, float], view: View) -> NDArray[np.uint8]:
        """The box at the view's size; the filter's support may reach beyond the box, as it does in the picture."""
        if max(self.image.size) < SMALL or not ready("cpu"):
            return np.asarray(self.image.resize((view.size, view.size), FILTERS[view.interpolation], box=box))
        if self.pixels is None:
            self.pixels = pixels(self.image)
        boxes = torch.tensor([box], dtype=torch.float64)
        cut: NDArray[np.uint8] = crop_views([self.pixels], boxes, view.size, view.interpolation)[0].numpy()
        return cut
