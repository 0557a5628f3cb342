"""Triton: pixels of groups are replaced in one pass, and compared with predictions in one pass either way."""

# mypy: allow-untyped-defs

from collections.abc import Iterator
from math import isqrt
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.philox import NOISE
from .._shared.specimen import Specimen
from . import mask_kernel

TILE = {"BLOCK": 2048, "num_warps": 4}  # 16 bytes of an image for every thread
KINDS = ("noise", "zeros", "images")


@triton.jit
def chosen(channel, first, second, third):
    """Of three numbers."""
    return tl.where(channel == 0, first, tl.where(channel == 1, second, third))


@triton.jit
def covered_at(mask_ptr, image, row, column, inside, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr):
    """Whether pixels are, from a mask of either kind."""
    if BITS:
        row_words: tl.constexpr = (WIDTH + 31) // 32
        start = mask_ptr + image * (HEIGHT * row_words)
        word = tl.load(start + row * row_words + column // 32, mask=inside, other=0)
        covered = ((word >> (column % 32)) & 1) != 0
    else:
        covered = tl.load(mask_ptr + image * (HEIGHT * WIDTH) + row * WIDTH + column, mask=inside, other=0) != 0
    return covered


@triton.jit
def radius_of(word):
    """sqrt(-2 log u), u in (0, 1] by the upper 24 bits."""
    u = ((word >> 8) + 1).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    return tl.sqrt(-2.0 * tl.log(u))


@triton.jit
def turn_of(word):
    """cos and sin of 2 pi word / 2^24: the nearest quarter of the turn is exact, the rest of it at most pi / 4.

    That needs no reduction of large angles, whose tables would be kept in memory.
    """
    word = (word >> 8).to(tl.int32)
    quarter = (word + (1 << 21)) >> 22
    x = (word - (quarter << 22)).to(tl.float32) * 3.7450704e-07  # 2 pi / 2^24
    t = x * x
    s = x * (1 + t * (-1.0 / 6 + t * (1.0 / 120 + t * (-1.0 / 5040 + t * (1.0 / 362880)))))
    c = 1 + t * (-0.5 + t * (1.0 / 24 + t * (-1.0 / 720 + t * (1.0 / 40320 - t * (1.0 / 3628800)))))
    odd = (quarter & 1) != 0
    cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
    return tl.where(((quarter + 1) & 2) != 0, -cosine, cosine), tl.where((quarter & 2) != 0, -sine, sine)


@triton.jit
def normals(run, step, sample, start, STREAM: tl.constexpr, COUNT: tl.constexpr):
    """Numbers start .. start + COUNT - 1 of a sample; start is a multiple of four."""
    group = (start // 4 + tl.arange(0, COUNT // 4)).to(tl.uint32)
    zero = group * 0
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    first, second, third, fourth = tl.philox(
        run, group + (STREAM << 24), zero + low, zero + high, zero + step.to(tl.uint32)
    )
    near, far = radius_of(first), radius_of(third)
    near_cosine, near_sine = turn_of(second)
    far_cosine, far_sine = turn_of(fourth)
    cosines = tl.join(near * near_cosine, far * far_cosine)
    return tl.join(cosines, tl.join(near * near_sine, far * far_sine)).reshape(COUNT)


@triton.jit
def corrupt_pixels(
    images_ptr, mask_ptr, other_ptr, partner_ptr, seed_ptr, sample_ids_ptr, out_ptr, m0, m1, m2, s0, s1, s2,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, KIND: tl.constexpr, BYTES: tl.constexpr,
    STREAM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Values of an image, of which the covered are replaced; KIND 0 is noise, 1 the mean, 2 other images."""
    size: tl.constexpr = HEIGHT * WIDTH * 3
    chunks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    image, start = (tl.program_id(0) // chunks).to(tl.int64), tl.program_id(0) % chunks * BLOCK
    value = start + tl.arange(0, BLOCK)
    inside = value < size
    row, column = value // (WIDTH * 3), value % (WIDTH * 3) // 3
    covered = covered_at(mask_ptr, image, row, column, inside, HEIGHT, WIDTH, BITS)
    own = tl.load(images_ptr + image * size + value, mask=inside)
    who = tl.full((), -1, tl.int64)
    if partner_ptr is not None:
        who = tl.load(partner_ptr + image)
    if who >= 0:
        shown = tl.load(images_ptr + who * size + value, mask=inside)
    elif KIND == 2:
        shown = tl.load(other_ptr + image * size + value, mask=inside)
    else:
        channel = value % 3
        filled = chosen(channel, m0, m1, m2)
        if KIND == 0:
            run, step, sample = tl.load(seed_ptr), tl.load(seed_ptr + 1), tl.load(sample_ids_ptr + image)
            filled += chosen(channel, s0, s1, s2) * normals(run, step, sample, start, STREAM, BLOCK)
        if BYTES:
            level = tl.minimum(tl.maximum(tl.floor(filled * 255.0 + 0.5), 0.0), 255.0)
            shown = level.to(tl.int32).to(tl.uint8)
        else:
            shown = filled.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + image * size + value, tl.where(covered, shown, own), mask=inside)


@triton.jit
def errors(
    prediction_ptr, images_ptr, mask_ptr, m0, m1, m2, s0, s1, s2, image, value,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, BITS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """prediction - target at values of an image in the order of patches, and whether they are covered."""
    total: tl.constexpr = HEIGHT * WIDTH * 3
    line: tl.constexpr = 3 * SIZE  # values of a patch in one row of pixels
    across: tl.constexpr = WIDTH // SIZE
    inside = value < total
    patch, row, step = value // (line * SIZE), value // line % SIZE, value % line
    row += patch // across * SIZE
    place = patch % across * line + step  # along the row
    covered = covered_at(mask_ptr, image, row, place // 3, inside, HEIGHT, WIDTH, BITS) & inside
    guess = tl.load(prediction_ptr + image * total + value, mask=inside, other=0.0).to(tl.float32)
    pixel = tl.load(images_ptr + image * total + row * (WIDTH * 3) + place, mask=inside, other=0).to(tl.float32)
    if BYTES:
        pixel = pixel / 255.0
    channel = step % 3
    return guess - (pixel - chosen(channel, m0, m1, m2)) / chosen(channel, s0, s1, s2), covered


@triton.jit
def add_errors(
    prediction_ptr, images_ptr, mask_ptr, sums_ptr, counts_ptr, m0, m1, m2, s0, s1, s2,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, BITS: tl.constexpr, BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a chunk of an image: the sum of covered errors, and how many those are."""
    chunks: tl.constexpr = (HEIGHT * WIDTH * 3 + BLOCK - 1) // BLOCK
    image = (tl.program_id(0) // chunks).to(tl.int64)
    value = tl.program_id(0) % chunks * BLOCK + tl.arange(0, BLOCK)
    error, covered = errors(
        prediction_ptr, images_ptr, mask_ptr, m0, m1, m2, s0, s1, s2, image, value, HEIGHT, WIDTH, SIZE, BITS, BYTES
    )
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(covered, tl.abs(error), 0.0), 0))
    tl.store(counts_ptr + tl.program_id(0), tl.sum(covered.to(tl.int32), 0))


@triton.jit
def slope_errors(
    factor_ptr, prediction_ptr, images_ptr, mask_ptr, out_ptr, m0, m1, m2, s0, s1, s2,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, BITS: tl.constexpr, BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """factor * sign of the covered errors of a chunk."""
    total: tl.constexpr = HEIGHT * WIDTH * 3
    chunks: tl.constexpr = (total + BLOCK - 1) // BLOCK
    image = (tl.program_id(0) // chunks).to(tl.int64)
    value = tl.program_id(0) % chunks * BLOCK + tl.arange(0, BLOCK)
    error, covered = errors(
        prediction_ptr, images_ptr, mask_ptr, m0, m1, m2, s0, s1, s2, image, value, HEIGHT, WIDTH, SIZE, BITS, BYTES
    )
    factor = tl.load(factor_ptr).to(tl.float32)
    slope = tl.where(error > 0, factor, tl.where(error < 0, -factor, error * 0.0))  # what is no number stays none
    slope = tl.where(covered, slope, 0.0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + image * total + value, slope, mask=value < total)


def corrupt(
    images: Tensor,
    mask: Tensor,
    source: str,
    other: Tensor | None,
    partner: Tensor | None,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    mean: list[float],
    std: list[float],
) -> Tensor:
    """A new image for each, in one launch."""
    images, out = images.contiguous(), torch.empty_like(images, memory_format=torch.contiguous_format)
    kind = "images" if other is not None else source
    given = [t if t is None else t.contiguous() for t in (mask, other, partner, seed, sample_ids)]
    if out.numel():
        layout = of_images(images, mask)
        with torch.cuda.device_of(images):
            corrupt_pixels[(programs(images),)](
                images, *given, out, *mean, *std, **layout, KIND=KINDS.index(kind), STREAM=NOISE, **TILE
            )
    return out


def sum_errors(
    prediction: Tensor, images: Tensor, mask: Tensor, mean: list[float], std: list[float]
) -> tuple[Tensor, Tensor]:
    """fp32 and int64 scalars: chunks are added by a second launch, in an order that never changes."""
    prediction, images, mask = prediction.contiguous(), images.contiguous(), mask.contiguous()
    count = programs(images) if images.numel() else 0
    sums, counts = prediction.new_empty(count, dtype=torch.float32), mask.new_empty(count, dtype=torch.int32)
    if count:
        layout = {**of_images(images, mask), "SIZE": isqrt(prediction.shape[2] // 3)}
        with torch.cuda.device_of(prediction):
            add_errors[(count,)](prediction, images, mask, sums, counts, *mean, *std, **layout, **TILE)
    return sums.sum(), counts.sum()


def gradient(
    factor: Tensor, prediction: Tensor, images: Tensor, mask: Tensor, mean: list[float], std: list[float]
) -> Tensor:
    """Of the prediction's type."""
    prediction, images, mask = prediction.contiguous(), images.contiguous(), mask.contiguous()
    out = torch.empty_like(prediction)
    if out.numel():
        layout = {**of_images(images, mask), "SIZE": isqrt(prediction.shape[2] // 3)}
        with torch.cuda.device_of(prediction):
            slope_errors[(programs(images),)](
                factor.contiguous(), prediction, images, mask, out, *mean, *std, **layout, **TILE
            )
    return out


def programs(images: Tensor) -> int:
    """A chunk of an image for each."""
    return len(images) * triton.cdiv(images[0].numel(), TILE["BLOCK"])


def of_images(images: Tensor, mask: Tensor) -> dict[str, Any]:
    """What the code is made for."""
    return {
        "HEIGHT": images.shape[1],
        "WIDTH": images.shape[2],
        "BITS": mask.dtype != torch.bool,
        "BYTES": images.dtype == torch.uint8,
    }


def specimens() -> list[Specimen]:
    """224 px, patches of 16, bitmaps; the kernels of masks too."""
    return [*mask_kernel.specimens(), *_corruptions(), *_losses()]


COMMON = {"HEIGHT": 224, "WIDTH": 224, "BITS": True, "BLOCK": TILE["BLOCK"]}
SCALING = {f"{kind}{channel}": "fp32" for kind in "ms" for channel in range(3)}


def _corruptions() -> Iterator[Specimen]:
    pointers = {"partner_ptr": "*i64", "seed_ptr": "*i64", "sample_ids_ptr": "*i64"}
    for name, pixel in (("uint8", "*u8"), ("bf16", "*bf16")):
        for kind in KINDS[:2]:
            yield Specimen(
                f"corrupt_groups {kind} {name}",
                corrupt_pixels,
                {"images_ptr": pixel, "mask_ptr": "*i32", **pointers, "out_ptr": pixel, **SCALING},
                {**COMMON, "other_ptr": None, "KIND": KINDS.index(kind), "BYTES": name == "uint8", "STREAM": NOISE},
                {"num_warps": TILE["num_warps"]},
                odd=tuple(SCALING),
            )


def _losses() -> Iterator[Specimen]:
    for dtype in ("bf16", "fp32"):
        inputs = {"prediction_ptr": f"*{dtype}", "images_ptr": "*u8", "mask_ptr": "*i32"}
        parts = {"sums_ptr": "*fp32", "counts_ptr": "*i32"}
        kinds = (
            ("forward", add_errors, {**inputs, **parts}),
            ("backward", slope_errors, {"factor_ptr": "*fp32", **inputs, "out_ptr": f"*{dtype}"}),
        )
        for name, kernel, pointers in kinds:
            yield Specimen(
                f"masked_l1 {name} {dtype}",
                kernel,
                {**pointers, **SCALING},
                {**COMMON, "SIZE": 16, "BYTES": True},
                {"num_warps": TILE["num_warps"]},
                odd=tuple(SCALING),
            )
