"""Triton: pixels of the kept patches go straight into a product on tensor cores, forward and to the weight."""

# mypy: allow-untyped-defs

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .._shared.one_hot import INTERPRETED, sum_rows
from .gather.kernel import centre, chosen, layout, load_patches, of_channel, offsets, patch_start
from .pixels import Patches

PROGRAMS = 264  # two for every multiprocessor of an H100; fixed, so that every GPU adds in the same order
TOKENS_PER_PART = 1024


@triton.jit
def fold_weight(
    weight_ptr, bias_ptr, matrix_ptr, shift_ptr, s0, s1, s2, r0, r1, r2, o0, o1, o2,
    SIZE: tl.constexpr, PLANES: tl.constexpr, STRIDE: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """A row of matrix [D, STRIDE] = weight * scale, in the order of the pixels, then zeros; and of what to add [D].

    shift = bias + weight . rest - matrix . offset, with the matrix as it was rounded: as though each channel had
    been centred by itself.
    """
    row = tl.program_id(0).to(tl.int64)
    value = tl.arange(0, VALUES)
    channel, pixel = of_channel(value, SIZE, PLANES)
    source = weight_ptr + row * (3 * SIZE * SIZE) + channel * (SIZE * SIZE) + pixel
    weight = tl.load(source, mask=value < 3 * SIZE * SIZE, other=0.0).to(tl.float32)
    scaled = (weight * chosen(channel, s0, s1, s2)).to(matrix_ptr.dtype.element_ty)
    tl.store(matrix_ptr + row * STRIDE + value, scaled, mask=value < STRIDE)
    shift = tl.sum(weight * chosen(channel, r0, r1, r2) - scaled.to(tl.float32) * chosen(channel, o0, o1, o2), 0)
    if bias_ptr is not None:
        shift += tl.load(bias_ptr + row).to(tl.float32)
    tl.store(shift_ptr + row, shift)


@triton.jit
def embed_patches(
    pixels_ptr, matrix_ptr, shift_ptr, position_ptr, prefix_ptr, keep_ptr, place_ptr, out_ptr,
    batch, kept, prefix, patches, columns, width, factor, centre,
    SIZE: tl.constexpr, PLANES: tl.constexpr, STRIDE: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out [batch, prefix + kept, width]: a tile of embedded patches, or of class tokens after all of those."""
    tiles = tl.cdiv(width, WIDTH)  # those of the same rows run side by side and read the pixels from the cache
    column = tl.program_id(0) % tiles * WIDTH + tl.arange(0, WIDTH)
    in_width = column < width
    group, patch_groups = tl.program_id(0) // tiles, tl.cdiv(batch * kept, ROWS)
    if group >= patch_groups:
        row = (group - patch_groups) * ROWS + tl.arange(0, ROWS)
        inside = (row < batch * prefix)[:, None] & in_width[None, :]
        token = tl.load(prefix_ptr + (row % prefix * width)[:, None] + column[None, :], mask=inside, other=0.0)
        out_row = (row // prefix).to(tl.int64) * (prefix + kept) + row % prefix
        tl.store(
            out_ptr + (out_row * width)[:, None] + column[None, :], token.to(out_ptr.dtype.element_ty), mask=inside
        )
        return
    row = group * ROWS + tl.arange(0, ROWS)
    in_batch = row < batch * kept
    image, slot = (row // kept).to(tl.int64), row % kept
    keep = slot.to(tl.int64)
    place = keep
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + row, mask=in_batch, other=0)
        place = tl.load(place_ptr + row, mask=in_batch, other=0)
    known = in_batch & (keep >= 0) & (keep < patches)
    start = patch_start(image, keep, patches, columns, SIZE, PLANES)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(0, STRIDE, DEPTH):
        value = first + tl.arange(0, DEPTH)
        values = load_patches(pixels_ptr, start, known, value, patches, columns, factor, centre, SIZE, PLANES)
        values = values.to(matrix_ptr.dtype.element_ty)
        weight = tl.load(matrix_ptr + (column * STRIDE)[None, :] + value[:, None], mask=in_width[None, :], other=0.0)
        if WIDEN:  # the interpreter cannot multiply bfloat16
            values, weight = values.to(tl.float32), weight.to(tl.float32)
        total = tl.dot(values, weight, acc=total, input_precision=PRECISION)
    total += tl.load(shift_ptr + column, mask=in_width, other=0.0)[None, :]
    told = (known & (place >= 0) & (place < patches))[:, None] & in_width[None, :]
    position = position_ptr + (place * width)[:, None] + column[None, :]
    total += tl.load(position, mask=told, other=float("nan")).to(tl.float32)
    out_row = image * (prefix + kept) + prefix + slot
    inside = in_batch[:, None] & in_width[None, :]
    tl.store(out_ptr + (out_row * width)[:, None] + column[None, :], total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def multiply_patches(
    tokens_ptr, pixels_ptr, keep_ptr, out_ptr,
    rows, kept, image_stride, patches, columns, width, rows_per_part, factor, centre,
    SIZE: tl.constexpr, PLANES: tl.constexpr, WIDEN: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out[part] = tokens^T . centred patches over the rows of a part; out [parts, width, 3 * SIZE * SIZE]"""
    values: tl.constexpr = 3 * SIZE * SIZE
    tiles = tl.cdiv(values, DEPTH)
    column = tl.program_id(0) // tiles * WIDTH + tl.arange(0, WIDTH)
    value = tl.program_id(0) % tiles * DEPTH + tl.arange(0, DEPTH)
    part = tl.program_id(1)
    last = tl.minimum((part + 1) * rows_per_part, rows)
    in_width = column < width
    total = tl.zeros((WIDTH, DEPTH), tl.float32)
    for first in range(part * rows_per_part, last, ROWS):
        row = first + tl.arange(0, ROWS)
        image, slot = (row // kept).to(tl.int64), row % kept
        keep = slot.to(tl.int64)
        if keep_ptr is not None:
            keep = tl.load(keep_ptr + row, mask=row < last, other=-1)
        known = (row < last) & (keep >= 0) & (keep < patches)
        # A 64-bit division is a subroutine, which forward runs once and this loop in every step.
        start = patch_start(image, keep.to(tl.int32), patches, columns, SIZE, PLANES)
        patch = load_patches(pixels_ptr, start, known, value, patches, columns, factor, centre, SIZE, PLANES)
        patch = patch.to(tokens_ptr.dtype.element_ty)
        source = tokens_ptr + (image * image_stride + slot * width)[:, None] + column[None, :]
        tokens = tl.load(source, mask=known[:, None] & in_width[None, :], other=0.0)
        if WIDEN:
            patch, tokens = patch.to(tl.float32), tokens.to(tl.float32)
        total = tl.dot(tokens.T, patch, acc=total, input_precision=PRECISION)
    out_row = (part * width + column).to(tl.int64) * values
    tl.store(out_ptr + out_row[:, None] + value[None, :], total, mask=in_width[:, None] & (value < values)[None, :])


@triton.jit
def unfold_weight(
    parts_ptr, sums_ptr, out_ptr, parts, width, s0, s1, s2, r0, r1, r2,
    SIZE: tl.constexpr, PLANES: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """A row of the weight's gradient [D, 3, p, p]: the parts, first to last, scaled, and what `rest` adds."""
    row = tl.program_id(0).to(tl.int64)
    value = tl.arange(0, VALUES)
    inside = value < 3 * SIZE * SIZE
    channel, pixel = of_channel(value, SIZE, PLANES)
    total = tl.zeros((VALUES,), tl.float32)
    for part in range(parts):
        source = parts_ptr + (part * width + row) * (3 * SIZE * SIZE) + value
        total += tl.load(source, mask=inside, other=0.0)
    total = total * chosen(channel, s0, s1, s2) + tl.load(sums_ptr + row) * chosen(channel, r0, r1, r2)
    tl.store(out_ptr + row * (3 * SIZE * SIZE) + channel * (SIZE * SIZE) + pixel, total, mask=inside)


Floats = Sequence[float] | None


def forward(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor,
    prefix: Tensor,
    keep: Tensor | None,
    place: Tensor | None,
    mean: Floats,
    std: Floats,
    dtype: torch.dtype,
) -> Tensor:
    """The operator, [B, T + K, D] of the given type: one launch that folds the weight, one that does the rest."""
    patches = Patches.of(images, weight.shape[2], mean, std)
    kept = len(position) if keep is None else keep.shape[1]
    out = weight.new_empty(patches.batch, len(prefix) + kept, len(weight), dtype=dtype)
    if out.numel() == 0:
        return out
    tile = forward_tile(len(weight), dtype)
    matrix, shift = folded(patches, weight, bias, dtype, tile["DEPTH"])
    place = keep if place is None else place
    groups = sum(triton.cdiv(patches.batch * rows, tile["ROWS"]) for rows in (kept, len(prefix)))
    grid = (groups * triton.cdiv(len(weight), tile["WIDTH"]),)
    with torch.cuda.device_of(images):
        embed_patches[grid](
            patches.lines,
            matrix,
            shift,
            position.contiguous(),
            prefix.contiguous(),
            None if keep is None else keep.contiguous(),
            None if place is None else place.contiguous(),
            out,
            patches.batch,
            kept,
            len(prefix),
            len(position),
            patches.columns,
            len(weight),
            patches.scaling.factor,
            centre(patches.scaling),
            **layout(patches),
            **tile,
            STRIDE=matrix.shape[1],
            WIDEN=INTERPRETED,
            enable_fp_fusion=True,
        )
    return out


def folded(
    patches: Patches, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, depth: int
) -> tuple[Tensor, Tensor]:
    """The weight as a matrix [D, C], with zeros up to a multiple of `depth`, and what to add to a patch, fp32 [D]."""
    width, values = len(weight), weight[0].numel()
    stride = triton.cdiv(values, depth) * depth
    matrix, shift = weight.new_empty(width, stride, dtype=dtype), weight.new_empty(width, dtype=torch.float32)
    scale = patches.scaling
    with torch.cuda.device_of(weight):
        fold_weight[(width,)](
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            matrix,
            shift,
            *scale.scale,
            *scale.rest,
            *offsets(scale),
            **layout(patches),
            STRIDE=stride,
            VALUES=triton.next_power_of_2(stride),
            num_warps=4,
            enable_fp_fusion=True,
        )
    return matrix, shift


def to_weight(
    tokens: Tensor, images: Tensor, keep: Tensor | None, sums: Tensor, size: int, mean: Floats, std: Floats
) -> Tensor:
    """tokens [B, K, D], the gradient of the kept ones, and its sum [D] -> gradient of the weight [D, 3, p, p], fp32"""
    patches, (batch, kept, width) = Patches.of(images, size, mean, std), tokens.shape
    out = tokens.new_empty(width, 3, size, size, dtype=torch.float32)
    if tokens.numel() == 0:
        return out.zero_()
    if tokens.stride()[1:] != (width, 1):
        tokens = tokens.contiguous()
    tile = weight_tile(width, tokens.dtype)
    values, rows = out[0].numel(), batch * kept
    tiles = triton.cdiv(width, tile["WIDTH"]) * triton.cdiv(values, tile["DEPTH"])
    rows_per_part = share(rows, tiles)
    partial = tokens.new_empty(triton.cdiv(rows, rows_per_part), width, values, dtype=torch.float32)
    scale = patches.scaling
    with torch.cuda.device_of(images):
        multiply_patches[(tiles, len(partial))](
            tokens,
            patches.lines,
            None if keep is None else keep.contiguous(),
            partial,
            rows,
            kept,
            tokens.stride(0),
            patches.rows * patches.columns,
            patches.columns,
            width,
            rows_per_part,
            scale.factor,
            centre(scale),
            **layout(patches),
            **tile,
            WIDEN=INTERPRETED,
            enable_fp_fusion=True,
        )
        unfold_weight[(width,)](
            partial,
            sums,
            out,
            len(partial),
            width,
            *scale.scale,
            *(r - s * o for r, s, o in zip(scale.rest, scale.scale, offsets(scale), strict=True)),
            **layout(patches),
            VALUES=triton.next_power_of_2(values),
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def to_position(grad: Tensor, place: Tensor, places: int) -> Tensor:
    """grad [B, T + K, D], place [B, K] -> gradient of the positions [P, D], fp32; class tokens are told none"""
    return sum_rows(grad, F.pad(place, (grad.shape[1] - place.shape[1], 0), value=-1), places)


def share(rows: int, tiles: int) -> int:
    """Rows for each part of a sum that is cut into enough parts to occupy a GPU: a function of the sizes alone."""
    return max(TOKENS_PER_PART, triton.cdiv(rows, max(1, PROGRAMS // tiles)))


def forward_tile(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Products in fp32 are three products of tensor cores in tf32, as exact as one of fp32 units."""
    if dtype.itemsize == 2:
        tile, options = (64, 128, 64), {"PRECISION": "ieee", "num_warps": 8, "num_stages": 3}
    else:
        tile, options = (64, 32, 32), {"PRECISION": "tf32x3", "num_warps": 4, "num_stages": 2}
    rows, columns, depth = tile
    return {"ROWS": rows, "WIDTH": fitting(width, columns), "DEPTH": depth, **options}


def weight_tile(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """As forward: WIDTH and DEPTH are of the result, ROWS of the tokens in a step."""
    if dtype.itemsize == 2:
        tile, options = (64, 128, 128), {"PRECISION": "ieee", "num_warps": 8, "num_stages": 3}
    else:
        tile, options = (32, 64, 64), {"PRECISION": "tf32x3", "num_warps": 4, "num_stages": 2}
    rows, columns, depth = tile
    return {"ROWS": rows, "WIDTH": fitting(width, columns), "DEPTH": depth, **options}


def fitting(width: int, most: int) -> int:
    """A power of two that holds the width, or is the most that a tile can be."""
    return min(most, max(16, triton.next_power_of_2(width)))
