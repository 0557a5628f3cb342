"""RandAugment (Cubuk et al., arXiv:1909.13719) as timm defines it, operation by operation with Pillow.

Each of a policy's layers draws one of fifteen operations, with replacement, and does it with some probability at
level ~ normal(magnitude, std), cut to [0, 10]. All fifteen grow with the level. What comes into sight from beyond the
picture has one colour, the mean of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps

from ..settings.randaugment import HIGHEST, Policy, policy
from ..vocabulary import View

NUMBERS = 4  # uniform ones that a layer needs: which operation, whether, how much, which way
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
Affine = tuple[float, float, float, float, float, float]


class Brush(NamedTuple):
    """How an operation is done: `level` in [0, 10], `sign` 1 or -1."""

    level: float
    sign: float
    resample: Image.Resampling
    fill: tuple[int, int, int]

    def signed(self, most: float) -> float:
        """Between -most and most."""
        return self.sign * self.level / HIGHEST * most


Operation = Callable[[Image.Image, Brush], Image.Image]


class RandAugment:
    """The policy that a view names, carried out on one picture from given uniform numbers."""

    def __init__(self, view: View):
        assert view.randaugment is not None
        self.policy: Policy = policy(view.randaugment)
        self.numbers = NUMBERS * self.policy.layers
        self.resample, self.fill = FILTERS[view.interpolation], view.fill

    def __call__(self, image: Image.Image, numbers: Sequence[float]) -> Image.Image:
        """`numbers` are as many as `self.numbers`, in [0, 1)."""
        for layer in range(self.policy.layers):
            which, whether, much, way = numbers[NUMBERS * layer : NUMBERS * (layer + 1)]
            if whether < self.policy.probability:
                brush = Brush(self.level(much), 1.0 if way < 0.5 else -1.0, self.resample, self.fill)
                image = OPERATIONS[int(which * len(OPERATIONS))](image, brush)
        return image

    def level(self, uniform: float) -> float:
        centre, std = self.policy.magnitude, self.policy.std
        drawn = NormalDist(centre, std).inv_cdf(max(uniform, 2.0**-53)) if std else centre
        return min(HIGHEST, max(0.0, drawn))


def auto_contrast(image: Image.Image, brush: Brush) -> Image.Image:
    """Each channel stretched from 0 to 255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, brush: Brush) -> Image.Image:
    """The histogram of each channel made flat."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, brush: Brush) -> Image.Image:
    """255 less each value."""
    return ImageOps.invert(image)


def rotate(image: Image.Image, brush: Brush) -> Image.Image:
    """Up to 30 degrees either way."""
    return image.rotate(brush.signed(30), brush.resample, fillcolor=brush.fill)


def posterize(image: Image.Image, brush: Brush) -> Image.Image:
    """From 4 bits kept down to none, which Pillow's own function refuses."""
    kept = 256 - 2 ** (4 + int(brush.level / HIGHEST * 4))
    return image.point([value & kept for value in range(256)] * 3)


def solarize(image: Image.Image, brush: Brush) -> Image.Image:
    """Values are inverted from 256 on, down to 0."""
    return ImageOps.solarize(image, 256 - int(brush.level / HIGHEST * 256))


def solarize_add(image: Image.Image, brush: Brush) -> Image.Image:
    """Up to 110 is added to values below 128."""
    more = int(brush.level / HIGHEST * 110)
    table = [min(255, value + more) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """One of Pillow's enhancements, by a factor of 1 +- 0.9 at most."""

    def operation(image: Image.Image, brush: Brush) -> Image.Image:
        return kind(image).enhance(max(0.1, 1 + brush.signed(0.9)))

    return operation


def moved(coefficients: Callable[[Image.Image, Brush], Affine]) -> Operation:
    """Each pixel from where an affine map of its place points to."""

    def operation(image: Image.Image, brush: Brush) -> Image.Image:
        where = coefficients(image, brush)
        return image.transform(image.size, Image.Transform.AFFINE, where, brush.resample, fillcolor=brush.fill)

    return operation


OPERATIONS: tuple[Operation, ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    enhanced(ImageEnhance.Color),
    enhanced(ImageEnhance.Contrast),
    enhanced(ImageEnhance.Brightness),
    enhanced(ImageEnhance.Sharpness),
    moved(lambda image, brush: (1, brush.signed(0.3), 0, 0, 1, 0)),  # sheared along rows
    moved(lambda image, brush: (1, 0, 0, brush.signed(0.3), 1, 0)),  # along columns
    moved(lambda image, brush: (1, 0, brush.signed(0.45) * image.width, 0, 1, 0)),  # shifted along rows
    moved(lambda image, brush: (1, 0, 0, 0, 1, brush.signed(0.45) * image.height)),  # along columns
)
