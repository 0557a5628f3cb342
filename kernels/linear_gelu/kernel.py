"""Triton: a matrix product that ends in bias and GELU; backward, the derivative and the bias gradient in one pass."""

# mypy: allow-untyped-defs

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.partial_sums import sum_parts
from .._shared.specimen import Specimen

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SQRT_HALF = tl.constexpr(0.7071067811865476)
DENSITY_AT_ZERO = tl.constexpr(0.3989422804014327)
ROWS_PER_PART = 128  # the sum over rows is cut by their number alone, so that every GPU adds in the same order
MOST_PARTS = 64


@triton.jit
def linear_gelu_forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    linear_ptr,
    out_ptr,
    rows,
    features,
    depth,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    DEPTH: tl.constexpr,
    BAND: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """linear = x weight^T + bias, unless it is None, and out = GELU(linear) [rows, features]: a tile a program.

    Programs go through bands of BAND tiles of rows, so that those that run together share x and weight in the cache.
    """
    across = tl.cdiv(features, FEATURES)
    band = tl.program_id(0) // (BAND * across)
    tall = tl.minimum(BAND, tl.cdiv(rows, ROWS) - band * BAND)
    within = tl.program_id(0) % (BAND * across)
    row = (band * BAND + within % tall).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    feature = within // tall * FEATURES + tl.arange(0, FEATURES)
    deep = tl.arange(0, DEPTH)
    x_ptrs = x_ptr + (row * depth)[:, None] + deep[None, :]
    weight_ptrs = weight_ptr + (feature * depth)[:, None] + deep[None, :]
    linear = tl.zeros((ROWS, FEATURES), tl.float32)
    for start in range(0, depth, DEPTH):
        inside = (deep < depth - start)[None, :]
        x = tl.load(x_ptrs, mask=inside & (row < rows)[:, None], other=0.0)
        weight = tl.load(weight_ptrs, mask=inside & (feature < features)[:, None], other=0.0)
        if WIDEN:  # the interpreter cannot multiply bfloat16
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        linear = tl.dot(x, tl.trans(weight), acc=linear, input_precision=PRECISION)
        x_ptrs += DEPTH
        weight_ptrs += DEPTH
    linear += tl.load(bias_ptr + feature, mask=feature < features, other=0.0).to(tl.float32)[None, :]
    rounded = linear.to(out_ptr.dtype.element_ty)
    offset = (row * features)[:, None] + feature[None, :]
    inside = (row < rows)[:, None] & (feature < features)[None, :]
    if linear_ptr is not None:
        tl.store(linear_ptr + offset, rounded, mask=inside)
    linear = rounded.to(tl.float32)
    out = linear * (0.5 + 0.5 * tl.erf(linear * SQRT_HALF))
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def linear_gelu_backward(
    grad_ptr,
    linear_ptr,
    linear_grad_ptr,
    sums_ptr,
    rows,
    features,
    rows_per_part,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """linear_grad = grad * GELU'(linear) [rows, features], and its sums over the rows of each part [parts, features]"""
    across = tl.cdiv(features, FEATURES)
    part = tl.program_id(0) // across
    feature = tl.program_id(0) % across * FEATURES + tl.arange(0, FEATURES)
    first = part.to(tl.int64) * rows_per_part
    last = tl.minimum(first + rows_per_part, rows)
    total = tl.zeros((ROWS, FEATURES), tl.float32)
    for start in range(0, rows_per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (feature < features)[None, :]
        offset = (row * features)[:, None] + feature[None, :]
        linear = tl.load(linear_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        slope = 0.5 + 0.5 * tl.erf(linear * SQRT_HALF) + linear * tl.exp(-0.5 * linear * linear) * DENSITY_AT_ZERO
        grad *= slope
        total += grad
        tl.store(linear_grad_ptr + offset, grad.to(linear_grad_ptr.dtype.element_ty), mask=inside)
    tl.store(sums_ptr + part * features + feature, tl.sum(total, 0), mask=feature < features)


def forward(x: Tensor, weight: Tensor, bias: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """x [R, D], weight [F, D], bias [F] -> GELU(linear) and linear [R, F], the latter empty unless it is to keep"""
    (rows, depth), features = x.shape, len(weight)
    out = x.new_empty(rows, features)
    linear = torch.empty_like(out) if keep else x.new_empty(0)
    if out.numel():
        tile = forward_tile(x.dtype)
        grid = (triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(features, tile["FEATURES"]),)
        tensors = (x.contiguous(), weight.contiguous(), bias.contiguous(), linear if keep else None, out)
        with torch.cuda.device_of(x):
            linear_gelu_forward[grid](*tensors, rows, features, depth, **tile, WIDEN=INTERPRETED, enable_fp_fusion=True)
    return out, linear


def backward(grad: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """grad and linear [R, F] -> the gradient of linear [R, F] and its sum over the rows, fp32 [F]"""
    rows, features = grad.shape
    rows_per_part = max(ROWS_PER_PART, triton.cdiv(rows, MOST_PARTS))
    linear_grad, parts = torch.empty_like(linear), triton.cdiv(rows, rows_per_part)
    sums = grad.new_empty(parts, features, dtype=torch.float32)
    if not linear_grad.numel():
        return linear_grad, sums.sum(0)
    tile = backward_tile()
    grid = (parts * triton.cdiv(features, tile["FEATURES"]),)
    with torch.cuda.device_of(grad):
        linear_gelu_backward[grid](
            grad.contiguous(), linear, linear_grad, sums, rows, features, rows_per_part, **tile, enable_fp_fusion=True
        )
    return linear_grad, sum_parts(sums)


def forward_tile(dtype: torch.dtype) -> dict[str, Any]:
    """Wider tiles, which would move fewer bytes, spill in the GELU.

    Products in fp32 are three products of tensor cores in tf32, as exact as one of fp32 units.
    """
    if dtype.itemsize == 2:
        return {**sizes(128, 128, 64), "PRECISION": "ieee", "num_warps": 8, "num_stages": 3}
    return {**sizes(64, 64, 32), "PRECISION": "tf32x3", "num_warps": 8, "num_stages": 2}


def sizes(rows: int, features: int, depth: int) -> dict[str, Any]:
    """Of the result, and of a step of the sum."""
    return {"ROWS": rows, "FEATURES": features, "DEPTH": depth, "BAND": 8}


def backward_tile() -> dict[str, int]:
    """16 numbers a thread in 128-bit loads."""
    return {"ROWS": 16, "FEATURES": 128, "num_warps": 4}


def specimens() -> list[Specimen]:
    """A student's forward and backward pass, and a teacher's forward pass, which keeps nothing; in fp32 a student's."""
    passes: tuple[tuple[str, str, dict[str, None]], ...]
    passes = (("student", "bf16", {}), ("teacher", "bf16", {"linear_ptr": None}), ("student fp32", "fp32", {}))
    return [
        *(forward_specimen(name, kind, absent) for name, kind, absent in passes),
        backward_specimen("linear_gelu backward", "bf16"),
        backward_specimen("linear_gelu backward fp32", "fp32"),
    ]


def forward_specimen(name: str, kind: str, absent: dict[str, None]) -> Specimen:
    """`kind` is the type of everything but the bias."""
    pointers = dict.fromkeys(("x_ptr", "weight_ptr", "linear_ptr", "out_ptr"), f"*{kind}") | {"bias_ptr": "*fp32"}
    arguments = pointers | dict.fromkeys(("rows", "features", "depth"), "i32")
    tile = forward_tile(torch.bfloat16 if kind == "bf16" else torch.float32)
    options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
    return Specimen(
        f"linear_gelu forward {name}",
        linear_gelu_forward,
        {argument: type_ for argument, type_ in arguments.items() if argument not in absent},
        {**tile, **absent, "WIDEN": False},
        options,
        odd=("rows",),
        tensor_cores=True,
    )


def backward_specimen(name: str, kind: str) -> Specimen:
    """As forward."""
    tile = backward_tile()
    options = {"num_warps": tile.pop("num_warps")}
    arguments = dict.fromkeys(("grad_ptr", "linear_ptr", "linear_grad_ptr"), f"*{kind}") | {"sums_ptr": "*fp32"}
    arguments |= dict.fromkeys(("rows", "features", "rows_per_part"), "i32")
    return Specimen(name, linear_gelu_backward, arguments, tile, options, odd=("rows", "rows_per_part"))
