"""Triton: a gather forward; backward, products with one-hot rows, which add in a fixed order without atomics."""

# mypy: allow-untyped-defs

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.specimen import Specimen

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOKENS_PER_PART = 1024  # the sum over tokens is cut by their number alone, so that every GPU adds in the same order
MOST_PARTS = 64


@triton.jit
def place_tokens_forward(
    tokens_ptr,
    position_ptr,
    keep_ptr,
    place_ptr,
    out_ptr,
    rows,
    kept,
    patches,
    places,
    width,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """out [rows, width]: one program sums a tile of gathered tokens and gathered positions."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    keep = tl.load(keep_ptr + row, mask=row < rows, other=0)
    place = tl.load(place_ptr + row, mask=row < rows, other=0)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    token_known = inside & ((keep >= 0) & (keep < patches))[:, None]
    place_known = inside & ((place >= 0) & (place < places))[:, None]
    token_row = (row // kept * patches + keep) * width
    tokens = tl.load(tokens_ptr + token_row[:, None] + column[None, :], mask=token_known, other=float("nan"))
    position = tl.load(position_ptr + (place * width)[:, None] + column[None, :], mask=place_known, other=float("nan"))
    total = tokens.to(tl.float32) + position.to(tl.float32)
    tl.store(out_ptr + (row * width)[:, None] + column[None, :], total.to(out_ptr.dtype.element_ty), mask=inside)


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


@triton.jit
def sum_parts(parts_ptr, out_ptr, parts, size, SIZE: tl.constexpr):
    """out [size] = the sum of parts [parts, size], first to last."""
    offset = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    pointer = parts_ptr + offset
    for _ in range(parts):
        total += tl.load(pointer, mask=offset < size, other=0.0)
        pointer += size
    tl.store(out_ptr + offset, total, mask=offset < size)


def forward(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor) -> Tensor:
    """tokens [B, P, D], position [P', D], keep and place [B, K] -> [B, K, D]"""
    (batch, kept), (_, patches, width) = keep.shape, tokens.shape
    out = tokens.new_empty(batch, kept, width)
    if out.numel() == 0:
        return out
    tile = forward_tile(width)
    grid = (triton.cdiv(batch * kept, tile["ROWS"]), triton.cdiv(width, tile["WIDTH"]))
    inputs = [tensor.contiguous() for tensor in (tokens, position, keep, place)]
    with torch.cuda.device_of(tokens):
        place_tokens_forward[grid](
            *inputs, out, batch * kept, kept, patches, len(position), width, **tile, num_warps=4, enable_fp_fusion=True
        )
    return out


def to_tokens(grad: Tensor, keep: Tensor, patches: int) -> Tensor:
    """grad [B, K, D], keep [B, K] -> gradient of the tokens [B, P, D]: a part an image"""
    batch, kept, width = grad.shape
    out = grad.new_empty(batch, patches, width)
    launch_one_hot_sum(grad, keep, out, kept)
    return out


def to_position(grad: Tensor, place: Tensor, places: int) -> Tensor:
    """grad [B, K, D], place [B, K] -> gradient of the table [P', D], fp32: parts of all tokens, then their sum"""
    tokens, width = place.numel(), grad.shape[2]
    rows_per_part = max(TOKENS_PER_PART, triton.cdiv(tokens, MOST_PARTS))
    parts = max(1, triton.cdiv(tokens, rows_per_part))
    partial = grad.new_empty(parts, places, width, dtype=torch.float32)
    launch_one_hot_sum(grad, place, partial, rows_per_part)
    if parts == 1:
        return partial[0]
    out, size = torch.empty_like(partial[0]), places * width
    with torch.cuda.device_of(grad):
        sum_parts[(triton.cdiv(size, 1024),)](partial, out, parts, size, SIZE=1024, num_warps=4, enable_fp_fusion=True)
    return out


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


def forward_tile(width: int) -> dict[str, int]:
    """16 rows of up to 128 columns a program: 128-bit loads, and enough programs for short batches."""
    return {"ROWS": 16, "WIDTH": min(128, triton.next_power_of_2(width))}


def one_hot_tile(count: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Tables of up to 256 entries are taken whole, so that each row of the gradient is read once.

    Products in fp32 run on no tensor core and keep their operands in registers: their tiles are small.
    """
    narrow = dtype.itemsize == 2
    entries = min(256 if narrow else 64, max(64, triton.next_power_of_2(count)))
    columns = min(64 if narrow else 32, max(16, triton.next_power_of_2(width)))
    rows, warps = (64, 8) if narrow else (32, 4)
    return {"COUNT": entries, "WIDTH": columns, "ROWS": rows, "num_warps": warps, "num_stages": 2}


def specimens() -> list[Specimen]:
    """The launches for 196 patches and any width that is a multiple of 64."""
    found = []
    for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        tile = one_hot_tile(196, 384, dtype)
        options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
        index, sizes = "*i64", dict.fromkeys(("rows", "count", "width", "rows_per_part"), "i32")
        for name, out in (("to_tokens", f"*{kind}"), ("to_position", "*fp32")):
            arguments = {"grad_ptr": f"*{kind}", "index_ptr": index, "out_ptr": out, **sizes}
            found.append(
                Specimen(
                    f"place_tokens {name} {kind}",
                    one_hot_sum,
                    arguments,
                    {**tile, "WIDEN": False},
                    options,
                    odd=("rows", "count", "rows_per_part"),
                    tensor_cores=kind == "bf16",
                )
            )
        pointers = {"tokens_ptr": f"*{kind}", "position_ptr": "*fp32", "keep_ptr": index, "place_ptr": index}
        sizes = dict.fromkeys(("rows", "kept", "patches", "places", "width"), "i32")
        found.append(
            Specimen(
                f"place_tokens forward {kind}",
                place_tokens_forward,
                {**pointers, "out_ptr": f"*{kind}", **sizes},
                forward_tile(384),
                {"num_warps": 4},
                odd=("rows", "kept", "patches", "places"),
            )
        )
    parts = {"parts_ptr": "*fp32", "out_ptr": "*fp32", "parts": "i32", "size": "i32"}
    found.append(Specimen("place_tokens sum_parts", sum_parts, parts, {"SIZE": 1024}, {"num_warps": 4}, odd=("parts",)))
    return found
