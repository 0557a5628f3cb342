"""Sums of rows by index on a GPU: products with one-hot rows, which add in a fixed order without atomics."""

# mypy: allow-untyped-defs
# ruff: noqa: N803

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .partial_sums import sum_parts

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOKENS_PER_PART = 1024  # the sum over tokens is cut by their number alone, so that every GPU adds in the same order
MOST_PARTS = 64


@triton.jit
def one_hot_sum(
    grad_ptr,
    index_ptr,
    out_ptr,
    rows,
    count,
    width,
    rows_per_part,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """out[part, i] = the sum of grad[r] over rows r of the part with index[r] = i; out [parts, count, width]

    Parts are consecutive groups of rows: an image's tokens, or any share of all tokens. The product with one-hot
    rows is exact, and tensor cores make it as cheap as reading grad.
    """
    tiles = tl.cdiv(count, COUNT)  # those of a part run side by side and read its rows from the cache
    part = (tl.program_id(0) // tiles).to(tl.int64)
    entry = tl.program_id(0) % tiles * COUNT + tl.arange(0, COUNT)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    first = part * rows_per_part
    last = tl.minimum(first + rows_per_part, rows)
    total = tl.zeros((COUNT, WIDTH), tl.float32)
    for start in range(0, rows_per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)
        index = tl.load(index_ptr + row, mask=row < last, other=-1)
        inside = (row < last)[:, None] & (column < width)[None, :]
        grad = tl.load(grad_ptr + (row * width)[:, None] + column[None, :], mask=inside, other=0.0)
        if WIDEN:  # the interpreter cannot multiply bfloat16
            grad = grad.to(tl.float32)
        one_hot = (entry[:, None] == index[None, :]).to(grad.dtype)
        total = tl.dot(one_hot, grad, acc=total, input_precision="ieee")
    out_row = (part * count + entry) * width
    inside = (entry < count)[:, None] & (column < width)[None, :]
    tl.store(out_ptr + out_row[:, None] + column[None, :], total.to(out_ptr.dtype.element_ty), mask=inside)


def sum_rows(grad: Tensor, index: Tensor, count: int) -> Tensor:
    """out[i] = the sum of grad[b, k] over index[b, k] = i, fp32 [count, D]: parts of all tokens, then their sum

    An index that is not among 0 .. count-1 is left out.
    """
    tokens, width = index.numel(), grad.shape[2]
    rows_per_part = max(TOKENS_PER_PART, triton.cdiv(tokens, MOST_PARTS))
    parts = max(1, triton.cdiv(tokens, rows_per_part))
    partial = grad.new_empty(parts, count, width, dtype=torch.float32)
    launch_one_hot_sum(grad, index, partial, rows_per_part)
    return partial[0] if parts == 1 else sum_parts(partial)


def launch_one_hot_sum(grad: Tensor, index: Tensor, out: Tensor, rows_per_part: int) -> None:
    """Fill out [parts, count, D] from grad [B, K, D] and index [B, K]."""
    parts, count, width = out.shape
    if index.numel() == 0 or out.numel() == 0:
        out.zero_()
        return
    tile = one_hot_tile(count, width, grad.dtype)
    grid = (parts * triton.cdiv(count, tile["COUNT"]), triton.cdiv(width, tile["WIDTH"]))
    with torch.cuda.device_of(grad):
        one_hot_sum[grid](
            grad.contiguous(),
            index.contiguous(),
            out,
            index.numel(),
            count,
            width,
            rows_per_part,
            **tile,
            WIDEN=INTERPRETED,
            enable_fp_fusion=True,
        )


def one_hot_tile(count: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Tables of up to 256 entries are taken whole, so that each row of the gradient is read once.

    Products in fp32 run on no tensor core and keep their operands in registers: their tiles are small.
    """
    narrow = dtype.itemsize == 2
    entries = min(256 if narrow else 64, max(64, triton.next_power_of_2(count)))
    columns = min(64 if narrow else 32, max(16, triton.next_power_of_2(width)))
    rows, warps = (64, 8) if narrow else (32, 4)
    return {"COUNT": entries, "WIDTH": columns, "ROWS": rows, "num_warps": warps, "num_stages": 2}
