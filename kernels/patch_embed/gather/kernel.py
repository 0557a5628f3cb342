"""Triton: the values of a kept patch, from images with adjacent channels or planes, centred on one number."""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from ..pixels import Patches, Scaling


@triton.jit
def of_channel(value, SIZE: tl.constexpr, PLANES: tl.constexpr):
    """The channel of each value of a patch, and its pixel."""
    if PLANES == 1:
        channel, pixel = value % 3, value // 3
    else:
        channel, pixel = value // (SIZE * SIZE), value % (SIZE * SIZE)
    return channel, pixel


@triton.jit
def chosen(channel, first, second, third):
    """The number of a channel."""
    return tl.where(channel == 0, first, tl.where(channel == 1, second, third))


@triton.jit
def patch_start(image, patch, patches, columns, SIZE: tl.constexpr, PLANES: tl.constexpr):
    """Where the first value of a patch lies among those of all images, int64."""
    corner = patch // columns * (columns * SIZE) + patch % columns  # in lines of a patch
    return image * patches * (3 * SIZE * SIZE) + corner * (3 * SIZE // PLANES)


@triton.jit
def from_start(value, patches, columns, SIZE: tl.constexpr, PLANES: tl.constexpr):
    """How far a value of a patch is from its first: lines of adjacent values, 3 * SIZE of them or a plane's SIZE."""
    line, within = value // (3 * SIZE // PLANES), value % (3 * SIZE // PLANES)
    if PLANES == 3:
        before = line // SIZE * (patches * SIZE * SIZE) + line % SIZE * columns * SIZE
    else:
        before = line * columns * (3 * SIZE)
    return before + within


@triton.jit
def load_patches(
    pixels_ptr, start, known, value, patches, columns, factor, centre, SIZE: tl.constexpr, PLANES: tl.constexpr
):  # fmt: skip
    """factor * pixel - centre [rows, values], fp32: exact in 16 bits where pixels are uint8."""
    offset = from_start(value, patches, columns, SIZE, PLANES)
    inside = known[:, None] & (value < 3 * SIZE * SIZE)[None, :]
    raw = tl.load(pixels_ptr + start[:, None] + offset[None, :], mask=inside, other=0)
    return raw.to(tl.float32) * factor - centre


def centre(scaling: Scaling) -> float:
    """One number near those of all channels, so that a pixel costs one operation; whole where pixels are."""
    return round(sum(scaling.centre) / 3 * 64) / 64


def offsets(scaling: Scaling) -> list[float]:
    """How far the centres of the channels are from it."""
    return [each - centre(scaling) for each in scaling.centre]


def layout(patches: Patches) -> dict[str, int]:
    """What the kernels are compiled for."""
    return {"SIZE": patches.size, "PLANES": patches.planes}
