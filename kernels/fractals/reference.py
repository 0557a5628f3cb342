"""What the fractal operators mean: NumPy and PyTorch, one image at a time, every operation in the published order."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._shared.philox import philox

STYLES = ("patch_gray", "patch_color", "point_gray", "point_color")
PAD = 6
LIT = 127
HUES = 128
DROPPED = 100  # points before the first that is not a number
MASKS, BITS = 0, 1  # the second word of a counter: masks of points, bits of pixels
WORDS = 10  # random words for each 32 pixels
Array = NDArray[np.float64]


def palette() -> Tensor:
    """Black, then 128 hues around the circle at saturation and intensity 0.75, blue first: uint8 [129, 3]

    >>> palette()[[0, 1, 65]].tolist()
    [[0, 0, 0], [47, 47, 191], [191, 191, 47]]
    """
    hue = 6 * np.arange(HUES) / HUES
    part = np.abs((hue[:, None] + np.array([2, 4, 0])) % 6 - 3).clip(1, 2) - 1  # of blue, green and red
    ring = 0.75 * 255 * (1 - 0.75 * (1 - part))
    return torch.from_numpy(np.concatenate([np.zeros((1, 3)), ring]).astype(np.uint8))


def orbit(maps: Array, probabilities: Array, uniforms: Array) -> Array:
    """The points from (0, 0) on, [2, N]: the first map whose running sum of probabilities reaches the uniform number.

    Where rounding leaves no such map the point stays.
    """
    running, chances = 0.0, []
    for chance in probabilities.tolist():
        running += chance
        chances.append(running)
    table = [*maps.tolist(), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]
    x = y = 0.0
    found = [(x, y)]
    for choice in np.searchsorted(chances, uniforms[:-1]).tolist():
        a, b, c, d, e, f = table[choice]
        x, y = a * x + b * y + e, c * x + d * y + f
        found.append((x, y))
    return np.array(found).T


def without_nan(path: Array) -> Array:
    """Up to 100 points before the first that is not a number, of x and then of y, as published."""
    for axis in range(2):
        wrong = np.isnan(path[axis])
        if wrong.any():
            path = path[:, : max(0, int(wrong.argmax()) - DROPPED)]
    return path


@np.errstate(all="ignore")
def cells(path: Array, size: int) -> NDArray[np.int64]:
    """Column and row of each point, either axis stretched by itself; 0 where that is not a number: [2, N]"""
    if not path.size:
        return path.astype(np.int64)
    moved = path - path.min(1, keepdims=True)  # (0, 0) is a point, so the least is never above 0
    extent = moved.max(1, keepdims=True)
    scaled = moved / extent * float(size - 2 * PAD) + PAD
    return np.where(np.isfinite(scaled), scaled, 0.0).astype(np.int64)


def masks(seed: Tensor, points: int) -> NDArray[np.int64]:
    """One of 1 .. 511 for each point, a function of (seed, point)."""
    counter = torch.zeros(4, (points + 3) // 4, dtype=torch.int64)
    counter[0] = torch.arange(counter.shape[1])
    counter[1] = MASKS
    words = philox(seed, counter).T.flatten()[:points]
    return (1 + (words * 511 >> 32)).numpy()


def bernoulli(seed: Tensor, pixels: int) -> NDArray[np.bool_]:
    """Independent bits that are 1 with probability 1/2 + 2^-10, 2e-6 less than 256/511."""
    groups = (pixels + 127) // 128  # of four words of 32 pixels
    counter = torch.zeros(4, groups, WORDS, dtype=torch.int64)
    counter[0] = torch.arange(groups)[:, None]
    counter[1] = BITS
    counter[2] = torch.arange(WORDS)
    words = philox(seed, counter).permute(1, 0, 2).reshape(-1, WORDS)  # [groups * 4, WORDS]
    rare = words[:, 1]
    for other in range(2, WORDS):
        rare = rare & words[:, other]
    lit = (words[:, 0] | rare)[:, None] >> torch.arange(32) & 1
    return lit.flatten()[:pixels].bool().numpy()


def painted(where: NDArray[np.int64], ink: NDArray[np.uint8], size: int, bits: NDArray[np.int64] | None) -> NDArray:
    """Ink of each point written in order, later over earlier, then turned upside down: uint8 [size, size]

    Without `bits` at the point; else on the 3 x 3 pixels to the right and below, 0 where the mask's bit is 0.
    """
    canvas = np.zeros(size * size, np.uint8)
    column, row = where
    if bits is None:
        canvas[row * size + column] = ink
    else:
        near = np.arange(1, 4)
        block = (row * size + column)[:, None] + (near[:, None] * size + near).ravel()
        canvas[block] = (bits[:, None] >> np.arange(8, -1, -1) & 1).astype(np.uint8) * ink[:, None]
    return np.ascontiguousarray(canvas.reshape(size, size)[::-1])


def inks(points: int, style: str) -> NDArray[np.uint8]:
    """Of each point: the lit gray, or the number of its colour."""
    if style.endswith("gray"):
        return np.full(points, LIT, np.uint8)
    return (np.arange(points) % HUES + 1).astype(np.uint8)


def traced(maps: Array, probabilities: Array, uniforms: Array, size: int) -> tuple[NDArray[np.int64], bool]:
    """Column and row of the points that are drawn, and whether all are finite."""
    path = orbit(maps, probabilities, uniforms)
    return cells(without_nan(path), size), bool(np.isfinite(path).all())


def support(
    maps: Tensor, probabilities: Tensor, weights: Tensor, uniforms: Tensor, size: int, style: str
) -> tuple[Tensor, Tensor, Tensor]:
    """bits [N, B], lit [N], finite [N]; see fractal_support."""
    bits, lit, finite = [], [], []
    for table, chances in zip((maps * weights[:, None]).numpy(), probabilities.numpy(), strict=True):
        where, whole = traced(table, chances, uniforms.numpy(), size)
        full = np.full(where.shape[1], 511) if style.startswith("patch") else None
        canvas = painted(where, inks(where.shape[1], style), size, full).ravel()
        bits.append(np.packbits(canvas != 0, bitorder="little") if style.endswith("gray") else canvas)
        lit.append(len(np.unique(where[1] * size + where[0])))
        finite.append(whole)
    return torch.from_numpy(np.stack(bits)), torch.tensor(lit), torch.tensor(finite)


def draw(bits: Tensor, seeds: Tensor, size: int, style: str) -> Tensor:
    """See draw_fractals."""
    pixels = size * size
    images = []
    for stored, seed in zip(bits.numpy(), seeds, strict=True):
        gray = style.endswith("gray")
        ink = np.unpackbits(stored, count=pixels, bitorder="little") * np.uint8(LIT) if gray else stored
        if style.startswith("patch"):
            ink = ink * bernoulli(seed, pixels)
        images.append(ink.reshape(size, size))
    return coloured(torch.from_numpy(np.stack(images)), style)


def render(
    maps: Tensor, probabilities: Tensor, weights: Tensor, uniforms: Tensor, seeds: Tensor, size: int, style: str
) -> Tensor:
    """See render_fractals."""
    images = []
    tables = (maps * weights[:, None]).numpy()
    for table, chances, seed in zip(tables, probabilities.numpy(), seeds, strict=True):
        where, _ = traced(table, chances, uniforms.numpy(), size)
        count = where.shape[1]
        patches = masks(seed, count) if style.startswith("patch") else None
        images.append(painted(where, inks(count, style), size, patches))
    return coloured(torch.from_numpy(np.stack(images)), style)


def coloured(ink: Tensor, style: str) -> Tensor:
    """A picture of ink."""
    return ink if style.endswith("gray") else palette()[ink.long()]
