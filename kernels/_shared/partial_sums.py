"""The sum of what many programs found, in an order that the number of parts alone decides."""

# mypy: allow-untyped-defs
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from .specimen import Specimen

TILE = {"PARTS": 64, "SIZE": 32}


@triton.jit
def sum_parts_kernel(parts_ptr, out_ptr, parts, size, PARTS: tl.constexpr, SIZE: tl.constexpr):
    """out [size] = the sum of parts [parts, size]"""
    column = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((PARTS, SIZE), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (column < size)[None, :]
        total += tl.load(parts_ptr + part.to(tl.int64)[:, None] * size + column[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + column, tl.sum(total, 0), mask=column < size)


def sum_parts(partial: Tensor) -> Tensor:
    """fp32 [parts, ..] -> [..]"""
    out = torch.empty_like(partial[0])
    if out.numel():
        with torch.cuda.device_of(partial):
            grid = (triton.cdiv(out.numel(), TILE["SIZE"]),)
            sum_parts_kernel[grid](partial, out, len(partial), out.numel(), **TILE, num_warps=4, enable_fp_fusion=True)
    return out


def specimen(name: str) -> Specimen:
    """For the room that uses it."""
    arguments = {"parts_ptr": "*fp32", "out_ptr": "*fp32", "parts": "i32", "size": "i32"}
    return Specimen(name, sum_parts_kernel, arguments, TILE, {"num_warps": 4}, odd=("parts",))
