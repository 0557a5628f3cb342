"""The random numbers of one crop: a function of (seed, epoch, view, sample id) and of nothing else."""

import math

import numpy as np
from numpy.typing import NDArray

from vitkiln.kernels.augment_views import layout

from ..vocabulary import View

Box = tuple[int, int, int, int]  # left, top, right, bottom
TRIES = 10
UNIFORMS = 4 * TRIES + 16  # the crop's tries, then the colours
IDENTITY = layout.identity()


def generator(seed: int, epoch: int, view: int, sample: int, attempt: int = 0) -> np.random.Generator:
    """Counter-based: Philox keyed by (seed, epoch), its counter set to (0, attempt, view, sample id)."""
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, attempt, view, sample], np.uint64)))


def uniforms(seed: int, epoch: int, view: int, sample: int, more: int = 0) -> list[float]:
    """All the random numbers of one crop, in [0, 1), and so many more."""
    return generator(seed, epoch, view, sample).random(UNIFORMS + more).tolist()


def crop_box(numbers: list[float], width: int, height: int, view: View) -> Box:
    """A box of random area and, on a logarithmic scale, random aspect that fits; else the largest central one.

    Ten tries, as torchvision's RandomResizedCrop makes them; `numbers` are at least 40 uniform ones. Without
    `view.retry` the first try is cut to the image's sides, as MAE's linear probe has it.
    """
    for i in range(TRIES):
        share, shape, x, y = numbers[4 * i : 4 * i + 4]
        w, h = _sides(share, shape, width * height, view)
        if not view.retry:
            w, h = min(max(w, 1), width), min(max(h, 1), height)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    return _central_box(width, height, view.ratio)


def _sides(share: float, shape: float, pixels: int, view: View) -> tuple[int, int]:
    area = _between(*view.scale, share) * pixels
    narrow, wide = (math.log(ratio) for ratio in view.ratio)
    aspect = math.exp(_between(narrow, wide, shape))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def padded_corner(numbers: list[float], width: int, height: int, view: View) -> tuple[int, int]:
    """Left and top of a square of the view's size in an image of this width and height with padding around it."""
    lefts, tops = (side - view.size + 2 * view.padding + 1 for side in (width, height))
    return int(numbers[0] * lefts) - view.padding, int(numbers[1] * tops) - view.padding


def flips(numbers: list[float], view: View) -> tuple[bool, bool]:
    """Whether a crop is mirrored left to right, and whether upside down."""
    u = numbers[4 * TRIES :]
    return u[0] < view.flip, u[14] < view.vertical_flip


def _central_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def colours(numbers: list[float], view: View) -> NDArray[np.float32]:
    """What `augment_views` is to do to a crop, one row of its parameters; `numbers` are those of the crop box.

    It flips the crop, unless RandAugment has to see it flipped already.
    """
    u = numbers[4 * TRIES :]
    row = IDENTITY.copy()
    if view.randaugment is None:
        mirrored, upside_down = flips(numbers, view)
        row[layout.FLIP] = mirrored + 2 * upside_down
    if u[1] < view.jitter_probability:
        *strengths, hue = view.jitter
        row[layout.JITTER] = 1
        row[layout.ORDER] = sorted(range(4), key=u[2:6].__getitem__)
        row[layout.FACTORS] = [_between(max(0.0, 1 - x), 1 + x, n) for x, n in zip(strengths, u[6:9], strict=True)]
        row[layout.HUE] = _between(-hue, hue, u[9])
    row[layout.GRAY] = u[10] < view.gray
    if u[11] < view.blur:
        row[layout.SIGMA] = _between(*view.blur_sigma, u[12])
    if u[13] < view.solarize:
        row[layout.THRESHOLD] = 128
    return row


def _between(low: float, high: float, uniform: float) -> float:
    return low + uniform * (high - low)
