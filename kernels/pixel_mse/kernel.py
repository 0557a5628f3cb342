"""Triton: targets are made in registers from the pixels where they lie; patches that do not count are not read."""

# mypy: allow-untyped-defs

from math import isqrt

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.partial_sums import specimen as specimen_of_sum
from .._shared.partial_sums import sum_parts
from .._shared.specimen import Specimen

WIDEST = 4096
EPSILON = tl.constexpr(1e-6)  # as published, beside the variance
ROWS_PER_PART = 32  # the sum over patches is cut by their number alone, so that every GPU adds in the same order
MOST_PARTS = 1024


@triton.jit
def target_of(
    images_ptr,
    inside,
    row,
    across,
    scale_r,
    scale_g,
    scale_b,
    shift_r,
    shift_g,
    shift_b,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Targets of patches [ROWS, WIDTH], 0 outside: value i is i % (3 * SIZE) of line i // (3 * SIZE) of the patch.

    Images lie one below the other, so that `row` counts patches of all of them.
    """
    CHANNELS: tl.constexpr = 3 * SIZE * SIZE
    column = tl.arange(0, WIDTH)
    grid = across // SIZE
    corner = (row // grid * SIZE * across + row % grid * SIZE) * 3
    within = column // (3 * SIZE) * (across * 3) + column % (3 * SIZE)
    pixels = tl.load(images_ptr + corner[:, None] + within[None, :], mask=inside, other=0).to(tl.float32)
    channel = column % 3
    scale = tl.where(channel == 0, scale_r, tl.where(channel == 1, scale_g, scale_b))
    shift = tl.where(channel == 0, shift_r, tl.where(channel == 1, shift_g, shift_b))
    target = tl.where(inside, pixels * scale[None, :] + shift[None, :], 0.0)
    if NORMALIZE:
        middle = tl.sum(target, 1) / CHANNELS
        target = tl.where(inside, target - middle[:, None], 0.0)
        variance = tl.sum(target * target, 1) / (CHANNELS - 1)
        target *= tl.rsqrt(variance + EPSILON)[:, None]
    return target


@triton.jit
def pixel_mse_forward(
    prediction_ptr,
    images_ptr,
    mask_ptr,
    sums_ptr,
    rows,
    across,
    rows_per_part,
    scale_r,
    scale_g,
    scale_b,
    shift_r,
    shift_g,
    shift_b,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """sums [parts, 2] over the patches of each part: squared differences, and how many patches count"""
    CHANNELS: tl.constexpr = 3 * SIZE * SIZE
    part = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    squares = tl.zeros((ROWS, WIDTH), tl.float32)
    counts = tl.zeros((ROWS,), tl.float32)
    first = part.to(tl.int64) * rows_per_part
    last = tl.minimum(first + rows_per_part, rows)
    for start in range(0, rows_per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)
        counted = tl.load(mask_ptr + row, mask=row < last, other=0) != 0
        inside = counted[:, None] & (column < CHANNELS)[None, :]
        target = target_of(
            images_ptr,
            inside,
            row,
            across,
            scale_r,
            scale_g,
            scale_b,
            shift_r,
            shift_g,
            shift_b,
            SIZE,
            WIDTH,
            NORMALIZE,
        )
        offset = (row * CHANNELS)[:, None] + column[None, :]
        error = tl.load(prediction_ptr + offset, mask=inside, other=0.0).to(tl.float32) - target
        squares += error * error
        counts += tl.where(counted, 1.0, 0.0)
    tl.store(sums_ptr + 2 * part, tl.sum(tl.sum(squares, 1), 0))
    tl.store(sums_ptr + 2 * part + 1, tl.sum(counts, 0))


@triton.jit
def pixel_mse_backward(
    grad_ptr,
    count_ptr,
    prediction_ptr,
    images_ptr,
    mask_ptr,
    prediction_grad_ptr,
    rows,
    across,
    scale_r,
    scale_g,
    scale_b,
    shift_r,
    shift_g,
    shift_b,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """prediction_grad [rows, C] = 2 * grad / (count * C) * (prediction - target), or 0; C = 3 * SIZE^2"""
    CHANNELS: tl.constexpr = 3 * SIZE * SIZE
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    counted = tl.load(mask_ptr + row, mask=row < rows, other=0) != 0
    inside = counted[:, None] & (column < CHANNELS)[None, :]
    target = target_of(
        images_ptr, inside, row, across, scale_r, scale_g, scale_b, shift_r, shift_g, shift_b, SIZE, WIDTH, NORMALIZE
    )
    offset = (row * CHANNELS)[:, None] + column[None, :]
    error = tl.load(prediction_ptr + offset, mask=inside, other=0.0).to(tl.float32) - target
    factor = tl.load(grad_ptr).to(tl.float32) / tl.load(count_ptr) * (2.0 / CHANNELS)
    written = (row < rows)[:, None] & (column < CHANNELS)[None, :]
    tl.store(prediction_grad_ptr + offset, (error * factor).to(prediction_grad_ptr.dtype.element_ty), mask=written)


def forward(
    prediction: Tensor, images: Tensor, mask: Tensor, mean: list[float], std: list[float], normalize: bool
) -> tuple[Tensor, Tensor]:
    """prediction [B, P, C], images [B, H, W, 3], mask [B, P] -> loss, and how many patches count but at least 1"""
    rows, width = mask.numel(), prediction.shape[2]
    if not rows:
        return prediction.new_zeros((), dtype=torch.float32), prediction.new_ones((), dtype=torch.float32)
    rows_per_part = max(ROWS_PER_PART, triton.cdiv(rows, MOST_PARTS))
    parts = triton.cdiv(rows, rows_per_part)
    sums = prediction.new_empty(parts, 2, dtype=torch.float32)
    with torch.cuda.device_of(prediction):
        pixel_mse_forward[(parts,)](
            *inputs(prediction, images, mask),
            sums,
            rows,
            images.shape[2],
            rows_per_part,
            *scaling(images.dtype, mean, std),
            **tile(width),
            NORMALIZE=normalize,
            enable_fp_fusion=True,
        )
    total, count = sum_parts(sums).unbind()
    count = count.clamp(min=1)
    return total / (count * width), count


def backward(
    grad: Tensor,
    count: Tensor,
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: list[float],
    std: list[float],
    normalize: bool,
) -> Tensor:
    """What forward took and counted -> the gradient of the prediction"""
    rows, width = mask.numel(), prediction.shape[2]
    out = torch.empty_like(prediction, memory_format=torch.contiguous_format)
    if not rows:
        return out
    sizes = tile(width)
    with torch.cuda.device_of(prediction):
        pixel_mse_backward[(triton.cdiv(rows, sizes["ROWS"]),)](
            grad,
            count,
            *inputs(prediction, images, mask),
            out,
            rows,
            images.shape[2],
            *scaling(images.dtype, mean, std),
            **sizes,
            NORMALIZE=normalize,
            enable_fp_fusion=True,
        )
    return out


def inputs(prediction: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As kernels read them: without a copy where they are contiguous."""
    return prediction.contiguous(), images.contiguous(), mask.contiguous().view(torch.uint8)


def scaling(dtype: torch.dtype, mean: list[float], std: list[float]) -> list[float]:
    """Three factors and three summands that normalise the channels of such pixels."""
    whole = 255.0 if dtype == torch.uint8 else 1.0
    return [1 / (whole * s) for s in std] + [-m / s for m, s in zip(mean, std, strict=True)]


def tile(width: int) -> dict[str, int]:
    """Whole patches, up to two at once, and 16 values a thread."""
    columns = max(16, triton.next_power_of_2(width))
    rows = max(1, min(2, WIDEST // columns))
    warps = max(1, min(8, rows * columns // 512))
    return {"SIZE": isqrt(width // 3), "ROWS": rows, "WIDTH": columns, "num_warps": warps}


def specimens() -> list[Specimen]:
    """Patches of 16 in bf16 over bytes, as MAE's recipe has them, and in fp32 over floating images."""
    found = [specimen_of_sum("pixel_mse sum_parts")]
    for kind, pixel in (("bf16", "u8"), ("fp32", "fp32")):
        for name, kernel in (("forward", pixel_mse_forward), ("backward", pixel_mse_backward)):
            found.append(specimen(f"pixel_mse {name} {kind} of {pixel}", kernel, kind, pixel))
    return found


def specimen(name: str, kernel: triton.JITFunction, kind: str, pixel: str) -> Specimen:
    """Predictions and their gradient are of the kind."""
    sizes = tile(768)
    options = {"num_warps": sizes.pop("num_warps")}
    constants = {**sizes, "NORMALIZE": True}
    types = dict.fromkeys(("prediction_ptr", "prediction_grad_ptr"), f"*{kind}")
    types |= {"images_ptr": f"*{pixel}", "mask_ptr": "*u8"}
    types |= dict.fromkeys(("grad_ptr", "count_ptr", "sums_ptr"), "*fp32")
    types |= dict.fromkeys(("rows", "across", "rows_per_part"), "i32")
    arguments = {name: types.get(name, "fp32") for name in kernel.arg_names if name not in constants}
    odd = ("rows", "rows_per_part", *(name for name, type_ in arguments.items() if type_ == "fp32"))
    return Specimen(name, kernel, arguments, constants, options, odd=odd)
