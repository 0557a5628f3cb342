"""Triton: a gather forward; backward, products with one-hot rows, which add in a fixed order without atomics."""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared import partial_sums
from .._shared.one_hot import launch_one_hot_sum, one_hot_sum, one_hot_tile, sum_rows
from .._shared.specimen import Specimen


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
    """grad [B, K, D], place [B, K] -> gradient of the table [P', D], fp32"""
    return sum_rows(grad, place, places)


def forward_tile(width: int) -> dict[str, int]:
    """16 rows of up to 128 columns a program: 128-bit loads, and enough programs for short batches."""
    return {"ROWS": 16, "WIDTH": min(128, triton.next_power_of_2(width))}


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
    found.append(partial_sums.specimen("place_tokens sum_parts"))
    return found
