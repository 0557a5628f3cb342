"""Triton: exact tiles for short sequences; backward, one program holds a head whole and adds in a fixed order."""

# mypy: allow-untyped-defs

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.specimen import Specimen

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LN_2, LOG2_E = tl.constexpr(0.6931471805599453), 1.4426950408889634
Tile = Callable[[int, torch.dtype], dict[str, Any]]


@triton.jit
def attention_forward(
    qkv_ptr,
    out_ptr,
    lse_ptr,
    SCALE: tl.constexpr,
    LENGTH: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """out [count, LENGTH, H * d] and lse [count, H, LENGTH] in base 2: one program takes QUERIES rows of one head.

    qkv [count, LENGTH, 3 * H * d]. SCALE = log2(e) / sqrt(d), so that the softmax is one of powers of two.
    """
    TILES: tl.constexpr = (LENGTH + QUERIES - 1) // QUERIES
    STRIDE: tl.constexpr = HEADS * WIDTH
    tile = tl.program_id(0) % TILES
    head = tl.program_id(0) // TILES % HEADS
    sequence = (tl.program_id(0) // TILES // HEADS).to(tl.int64)
    column = tl.arange(0, WIDTH)
    row = tile * QUERIES + tl.arange(0, QUERIES)
    base = qkv_ptr + sequence * (LENGTH * 3 * STRIDE) + head * WIDTH
    query = tl.load(base + row[:, None] * (3 * STRIDE) + column[None, :], mask=(row < LENGTH)[:, None], other=0.0)
    if WIDEN:  # the interpreter cannot multiply bfloat16
        query = query.to(tl.float32)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, LENGTH, KEYS):
        other = start + tl.arange(0, KEYS)
        pointer = base + other[:, None] * (3 * STRIDE) + column[None, :]
        key = tl.load(pointer + STRIDE, mask=(other < LENGTH)[:, None], other=0.0)
        value = tl.load(pointer + 2 * STRIDE, mask=(other < LENGTH)[:, None], other=0.0)
        if WIDEN:
            key, value = key.to(tl.float32), value.to(tl.float32)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * SCALE
        score = tl.where((other < LENGTH)[None, :], score, float("-inf"))
        above = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - above)
        power = tl.exp2(score - above[:, None])
        total = total * shrink + tl.sum(power, 1)
        out = tl.dot(power.to(value.dtype), value, acc=out * shrink[:, None], input_precision=PRECISION)
        highest = above
    out = out / total[:, None]
    out_pointer = out_ptr + (sequence * LENGTH + row[:, None]) * STRIDE + head * WIDTH + column[None, :]
    tl.store(out_pointer, out.to(out_ptr.dtype.element_ty), mask=(row < LENGTH)[:, None])
    lse_pointer = lse_ptr + (sequence * HEADS + head) * LENGTH + row
    tl.store(lse_pointer, highest + tl.log2(total), mask=row < LENGTH)


@triton.jit
def attention_backward(
    grad_ptr,
    qkv_ptr,
    out_ptr,
    lse_ptr,
    qkv_grad_ptr,
    SCALE: tl.constexpr,
    LENGTH: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The gradient of qkv [count, LENGTH, 3 * H * d]: one program takes one head of one sequence.

    All queries stay on chip while the keys pass by, so every gradient is complete when it is written.
    """
    STRIDE: tl.constexpr = HEADS * WIDTH
    head = tl.program_id(0) % HEADS
    sequence = (tl.program_id(0) // HEADS).to(tl.int64)
    column = tl.arange(0, WIDTH)
    row = tl.arange(0, QUERIES)
    inside = (row < LENGTH)[:, None]
    packed = row[:, None] * (3 * STRIDE) + column[None, :]
    plain = row[:, None] * STRIDE + column[None, :]
    qkv_ptr += sequence * (LENGTH * 3 * STRIDE) + head * WIDTH
    qkv_grad_ptr += sequence * (LENGTH * 3 * STRIDE) + head * WIDTH
    first = sequence * (LENGTH * STRIDE) + head * WIDTH
    grad = tl.load(grad_ptr + first + plain, mask=inside, other=0.0)
    out = tl.load(out_ptr + first + plain, mask=inside, other=0.0)
    lse = tl.load(lse_ptr + (sequence * HEADS + head) * LENGTH + row, mask=row < LENGTH, other=float("inf"))
    along = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    query = tl.load(qkv_ptr + packed, mask=inside, other=0.0)
    if WIDEN:
        query, grad = query.to(tl.float32), grad.to(tl.float32)
    query_grad = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, LENGTH, KEYS):
        other = start + tl.arange(0, KEYS)
        known = (other < LENGTH)[:, None]
        pointer = other[:, None] * (3 * STRIDE) + column[None, :]
        key = tl.load(qkv_ptr + STRIDE + pointer, mask=known, other=0.0)
        value = tl.load(qkv_ptr + 2 * STRIDE + pointer, mask=known, other=0.0)
        if WIDEN:
            key, value = key.to(tl.float32), value.to(tl.float32)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * SCALE
        weight = tl.where((other < LENGTH)[None, :], tl.exp2(score - lse[:, None]), 0.0)
        # Products of 64 rows by KEYS columns, turned only when stored: Hopper's tensor cores take 64 rows at least.
        value_grad = tl.dot(tl.trans(grad), weight.to(grad.dtype), input_precision=PRECISION)
        weight_grad = tl.dot(grad, tl.trans(value), input_precision=PRECISION)
        score_grad = (weight * (weight_grad - along[:, None])).to(query.dtype)
        query_grad = tl.dot(score_grad, key, acc=query_grad, input_precision=PRECISION)
        key_grad = tl.dot(tl.trans(query), score_grad, input_precision=PRECISION) * (SCALE * LN_2)
        value_grad, key_grad = tl.trans(value_grad), tl.trans(key_grad)
        tl.store(qkv_grad_ptr + STRIDE + pointer, key_grad.to(qkv_grad_ptr.dtype.element_ty), mask=known)
        tl.store(qkv_grad_ptr + 2 * STRIDE + pointer, value_grad.to(qkv_grad_ptr.dtype.element_ty), mask=known)
    query_grad = query_grad * (SCALE * LN_2)
    tl.store(qkv_grad_ptr + packed, query_grad.to(qkv_grad_ptr.dtype.element_ty), mask=inside)


def forward(qkv: Tensor, num_heads: int, counts: list[int], lengths: list[int]) -> tuple[Tensor, Tensor]:
    """qkv [T, 3 * D], groups of counts[i] sequences of lengths[i] -> out [T, D], lse [T * H] by group"""
    tokens, width = qkv.shape[0], qkv.shape[1] // 3
    qkv, out = qkv.contiguous(), qkv.new_empty(tokens, width)
    lse = qkv.new_empty(tokens * num_heads, dtype=torch.float32)
    for count, length, rows in groups(counts, lengths):
        constants = sizes(length, num_heads, width // num_heads) | forward_tile(length, qkv.dtype)
        programs = count * num_heads * triton.cdiv(length, constants["QUERIES"])
        tensors = qkv[rows], out[rows], lse[rows.start * num_heads :]
        with torch.cuda.device_of(qkv):
            attention_forward[(programs,)](*tensors, **constants, WIDEN=INTERPRETED, enable_fp_fusion=True)
    return out, lse


def backward(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_heads: int, counts: list[int], lengths: list[int]
) -> Tensor:
    """grad [T, D] and what forward took and gave -> the gradient of qkv [T, 3 * D]"""
    grad, qkv = grad.contiguous(), qkv.contiguous()
    qkv_grad, width = torch.empty_like(qkv), grad.shape[1] // num_heads
    for count, length, rows in groups(counts, lengths):
        constants = sizes(length, num_heads, width) | backward_tile(length, qkv.dtype)
        tensors = grad[rows], qkv[rows], out[rows], lse[rows.start * num_heads :], qkv_grad[rows]
        with torch.cuda.device_of(qkv):
            attention_backward[(count * num_heads,)](*tensors, **constants, WIDEN=INTERPRETED, enable_fp_fusion=True)
    return qkv_grad


def groups(counts: list[int], lengths: list[int]) -> Iterator[tuple[int, int, slice]]:
    """Every group that holds tokens: how many sequences of which length, in which rows."""
    start = 0
    for count, length in zip(counts, lengths, strict=True):
        if count * length:
            yield count, length, slice(start, start + count * length)
        start += count * length


def sizes(length: int, num_heads: int, width: int) -> dict[str, float]:
    """What both kernels are compiled for."""
    return {"SCALE": width**-0.5 * LOG2_E, "LENGTH": length, "HEADS": num_heads, "WIDTH": width}


def forward_tile(length: int, dtype: torch.dtype) -> dict[str, Any]:
    """Up to 64 tokens are one tile; beyond, 64 by 64 leaves room for several programs on a multiprocessor.

    Products in fp32 are three products of tensor cores in tf32, as exact as one of fp32 units, which would spill.
    """
    queries = min(64, max(16, triton.next_power_of_2(length)))
    keys, precision = (queries, "ieee") if dtype.itemsize == 2 else (min(32, queries), "tf32x3")
    stages = 1 if length <= keys else 2
    return {"QUERIES": queries, "KEYS": keys, "PRECISION": precision, "num_warps": 4, "num_stages": stages}


def backward_tile(length: int, dtype: torch.dtype) -> dict[str, Any]:
    """All queries in one tile, and the fewest keys that tensor cores take: more of them cost registers alone."""
    queries = max(16, triton.next_power_of_2(length))
    precision = "ieee" if dtype.itemsize == 2 else "tf32x3"
    warps = 4 if queries <= 64 else 8
    return {"QUERIES": queries, "KEYS": 16, "PRECISION": precision, "num_warps": warps, "num_stages": 1}


def specimens() -> list[Specimen]:
    """Heads of 64 over the tokens of a sparse student, of a smaller crop and of a dense teacher, and narrower heads."""
    shapes = [("bf16", length, 64) for length in (50, 98, 197)]
    shapes += [("bf16", 197, 32), ("bf16", 197, 16), ("fp32", 50, 64), ("fp32", 50, 16)]
    return [
        specimen(name, kernel, shape, tile)
        for shape in shapes
        for name, kernel, tile in (
            ("forward", attention_forward, forward_tile),
            ("backward", attention_backward, backward_tile),
        )
    ]


def specimen(name: str, kernel: Any, shape: tuple[str, int, int], tiled: Tile) -> Specimen:
    """One kernel for six heads: the type, how many tokens, how wide a head is."""
    kind, length, width = shape
    tile = tiled(length, torch.bfloat16 if kind == "bf16" else torch.float32)
    options = {option: tile.pop(option) for option in ("num_warps", "num_stages")}
    pointers = [argument for argument in kernel.arg_names if argument.endswith("_ptr")]
    arguments = {pointer: "*fp32" if pointer == "lse_ptr" else f"*{kind}" for pointer in pointers}
    constants = {**sizes(length, 6, width), **tile, "WIDEN": False}
    title = (
        f"attention {name} {length}" + (f" {kind}" if kind != "bf16" else "") + (f" by {width}" if width < 64 else "")
    )
    return Specimen(title, kernel, arguments, constants, options, tensor_cores=True)
