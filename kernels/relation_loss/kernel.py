"""Triton: nine logits of a pair of patches one after the other, so that no tile holds more than one of them."""

# mypy: allow-untyped-defs

import math
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared import partial_sums
from .._shared.partial_sums import sum_parts
from .._shared.specimen import Specimen
from .reference import RELATIONS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LN_2, LOG2_E = tl.constexpr(0.6931471805599453), 1.4426950408889634
CLASSES = tl.constexpr(RELATIONS)


@triton.jit
def relation_labels(row, col, other_row, other_col):
    """3 (1 + sgn(row - other_row)) + 1 + sgn(col - other_col), without a difference that could overflow."""
    down = (row > other_row).to(tl.int32) - (row < other_row).to(tl.int32)
    right = (col > other_col).to(tl.int32) - (col < other_col).to(tl.int32)
    return 3 * down + right + 4


@triton.jit
def relation_forward(
    query_ptr,
    key_ptr,
    rows_ptr,
    cols_ptr,
    sums_ptr,
    SCALE: tl.constexpr,
    SMOOTHING: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    IMAGE: tl.constexpr,
    HEAD: tl.constexpr,
    TOKEN: tl.constexpr,
    PLACES: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """sums [2, programs], of the loss and of the pairs told right: one program takes QUERIES rows of one image.

    IMAGE, HEAD and TOKEN are strides of query and key, PLACES that of rows and cols between images, 0 where all
    have the same. SCALE = log2(e) / sqrt(d), so that the softmax is one of powers of two.
    """
    TILES: tl.constexpr = (LENGTH + QUERIES - 1) // QUERIES
    image = (tl.program_id(0) // TILES).to(tl.int64)
    query_row = tl.program_id(0) % TILES * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, DEPTH)
    query_in = (query_row < LENGTH)[:, None]
    query_ptrs = query_ptr + image * IMAGE + query_row[:, None] * TOKEN + channel[None, :]
    row = tl.load(rows_ptr + image * PLACES + query_row, mask=query_row < LENGTH, other=0).to(tl.int32)
    col = tl.load(cols_ptr + image * PLACES + query_row, mask=query_row < LENGTH, other=0).to(tl.int32)
    loss = tl.zeros((QUERIES,), tl.float32)
    hits = tl.zeros((QUERIES,), tl.float32)
    for start in range(0, LENGTH, KEYS):
        key_row = start + tl.arange(0, KEYS)
        key_in = (key_row < LENGTH)[:, None]
        key_ptrs = key_ptr + image * IMAGE + key_row[:, None] * TOKEN + channel[None, :]
        key_places = image * PLACES + key_row
        other_row = tl.load(rows_ptr + key_places, mask=key_row < LENGTH, other=0).to(tl.int32)
        other_col = tl.load(cols_ptr + key_places, mask=key_row < LENGTH, other=0).to(tl.int32)
        label = relation_labels(row[:, None], col[:, None], other_row[None, :], other_col[None, :])
        highest = tl.full((QUERIES, KEYS), float("-inf"), tl.float32)
        total = tl.zeros((QUERIES, KEYS), tl.float32)
        target = tl.zeros((QUERIES, KEYS), tl.float32)
        best = tl.zeros((QUERIES, KEYS), tl.int32)
        for head in range(CLASSES):
            logit = tl.zeros((QUERIES, KEYS), tl.float32)
            for first in range(0, WIDTH, DEPTH):
                known = (first + channel < WIDTH)[None, :]
                query = tl.load(query_ptrs + (head * HEAD + first), mask=known & query_in, other=0.0)
                key = tl.load(key_ptrs + (head * HEAD + first), mask=known & key_in, other=0.0)
                if WIDEN:  # the interpreter cannot multiply bfloat16
                    query, key = query.to(tl.float32), key.to(tl.float32)
                logit = tl.dot(query, tl.trans(key), acc=logit, input_precision=PRECISION)
            logit *= SCALE
            above = logit - highest
            power = tl.exp2(-tl.abs(above))  # one power, whichever of the two is larger
            total = tl.where(above > 0, total * power + 1, total + power)
            best = tl.where(above > 0, head, best)
            highest = tl.maximum(highest, logit)
            target += tl.where(label == head, logit, 0.0) * (1 - SMOOTHING)
            if SMOOTHING > 0:
                target += logit * (SMOOTHING / CLASSES)
        inside = query_in & (key_row < LENGTH)[None, :]
        loss += tl.sum(tl.where(inside, highest - target + tl.log2(total), 0.0), 1)
        hits += tl.sum((inside & (best == label)).to(tl.float32), 1)
    tl.store(sums_ptr + tl.program_id(0) * 2, tl.sum(loss, 0) * LN_2)
    tl.store(sums_ptr + tl.program_id(0) * 2 + 1, tl.sum(hits, 0))


@triton.jit
def relation_backward(
    ours_ptr,
    others_ptr,
    rows_ptr,
    cols_ptr,
    factor_ptr,
    grad_ptr,
    images,
    SIGN: tl.constexpr,
    SCALE: tl.constexpr,
    SMOOTHING: tl.constexpr,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    IMAGE: tl.constexpr,
    HEAD: tl.constexpr,
    TOKEN: tl.constexpr,
    PLACES: tl.constexpr,
    OURS: tl.constexpr,
    OTHERS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The gradient of one side [parts, images, 9, LENGTH, d]: one program takes OURS rows of it against OTHERS.

    Queries against keys, with SIGN 1, or keys against queries, with SIGN -1, as labels are seen from there. A
    part is what came of one tile of others. Tiles are others by ours: Hopper's tensor cores take 64 rows at
    least, and there are more others. First all heads, for the log-sum-exp of each pair; then each again.
    """
    TILES: tl.constexpr = (LENGTH + OURS - 1) // OURS
    PARTS: tl.constexpr = (LENGTH + OTHERS - 1) // OTHERS
    image = (tl.program_id(0) // (TILES * PARTS)).to(tl.int64)
    part = tl.program_id(0) // TILES % PARTS
    our_row = tl.program_id(0) % TILES * OURS + tl.arange(0, OURS)
    other_row = part * OTHERS + tl.arange(0, OTHERS)
    channel = tl.arange(0, DEPTH)
    our_in, other_in = (our_row < LENGTH)[:, None], (other_row < LENGTH)[:, None]
    our_ptrs = ours_ptr + image * IMAGE + our_row[:, None] * TOKEN + channel[None, :]
    other_ptrs = others_ptr + image * IMAGE + other_row[:, None] * TOKEN + channel[None, :]
    highest = tl.full((OTHERS, OURS), float("-inf"), tl.float32)
    total = tl.zeros((OTHERS, OURS), tl.float32)
    for head in range(CLASSES):
        logit = tl.zeros((OTHERS, OURS), tl.float32)
        for first in range(0, WIDTH, DEPTH):
            known = (first + channel < WIDTH)[None, :]
            our = tl.load(our_ptrs + (head * HEAD + first), mask=known & our_in, other=0.0)
            other = tl.load(other_ptrs + (head * HEAD + first), mask=known & other_in, other=0.0)
            if WIDEN:
                our, other = our.to(tl.float32), other.to(tl.float32)
            logit = tl.dot(other, tl.trans(our), acc=logit, input_precision=PRECISION)
        logit *= SCALE
        above = logit - highest
        power = tl.exp2(-tl.abs(above))
        total = tl.where(above > 0, total * power + 1, total + power)
        highest = tl.maximum(highest, logit)
    lse = highest + tl.log2(total)
    places = image * PLACES
    our_r = tl.load(rows_ptr + places + our_row, mask=our_row < LENGTH, other=0).to(tl.int32)[None, :]
    our_c = tl.load(cols_ptr + places + our_row, mask=our_row < LENGTH, other=0).to(tl.int32)[None, :]
    other_r = tl.load(rows_ptr + places + other_row, mask=other_row < LENGTH, other=0).to(tl.int32)[:, None]
    other_c = tl.load(cols_ptr + places + other_row, mask=other_row < LENGTH, other=0).to(tl.int32)[:, None]
    label = relation_labels(our_r, our_c, other_r, other_c)
    if SIGN < 0:
        label = CLASSES - 1 - label
    factor = tl.load(factor_ptr)
    grad_ptrs = grad_ptr + ((part * images + image) * CLASSES * LENGTH + our_row[:, None]) * WIDTH + channel[None, :]
    for head in range(CLASSES):
        logit = tl.zeros((OTHERS, OURS), tl.float32)
        for first in range(0, WIDTH, DEPTH):
            known = (first + channel < WIDTH)[None, :]
            our = tl.load(our_ptrs + (head * HEAD + first), mask=known & our_in, other=0.0)
            other = tl.load(other_ptrs + (head * HEAD + first), mask=known & other_in, other=0.0)
            if WIDEN:
                our, other = our.to(tl.float32), other.to(tl.float32)
            logit = tl.dot(other, tl.trans(our), acc=logit, input_precision=PRECISION)
        logit *= SCALE
        error = tl.exp2(logit - lse) - tl.where(label == head, 1 - SMOOTHING, 0.0)
        if SMOOTHING > 0:
            error -= SMOOTHING / CLASSES
        for first in range(0, WIDTH, DEPTH):
            known = (first + channel < WIDTH)[None, :]
            other = tl.load(other_ptrs + (head * HEAD + first), mask=known & other_in, other=0.0)
            if WIDEN:
                other = other.to(tl.float32)
            # Rows beyond the last are zeros, so that their errors add nothing.
            grad = tl.dot(tl.trans(other), error.to(other.dtype), input_precision=PRECISION) * factor
            pointer = grad_ptrs + (head * (LENGTH * WIDTH) + first)
            tl.store(pointer, tl.trans(grad).to(grad_ptr.dtype.element_ty), mask=known & our_in)


def forward(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """query and key [B, 9, N, d], rows and cols [1 or B, N] -> mean loss, and the share of pairs told right"""
    query, key = alike(query, key)
    batch, _, length, _ = query.shape
    constants = sizes(query, rows, smoothing) | forward_tile(query.shape[3], query.dtype)
    programs = batch * triton.cdiv(length, constants["QUERIES"])
    sums = query.new_empty(programs, 2, dtype=torch.float32)
    if programs:
        tensors = query, key, rows.contiguous(), cols.contiguous(), sums
        with torch.cuda.device_of(query):
            relation_forward[(programs,)](*tensors, **constants, WIDEN=INTERPRETED, enable_fp_fusion=True)
    loss, accuracy = (sum_parts(sums) if programs else sums.sum(0)).div_(max(1, batch * length**2)).unbind()
    return loss.clone(), accuracy.clone()


def backward(
    grad: Tensor, query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float, to: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of query and key [B, 9, N, d], either empty unless `to` it is asked for."""
    query, key = alike(query, key)
    count = max(1, len(query) * query.shape[2] ** 2)
    factor = grad.float() / (count * math.sqrt(query.shape[3]))
    places = rows.contiguous(), cols.contiguous()
    to_query = one_side(query, key, *places, factor, smoothing, 1) if to[0] else query.new_empty(0)
    to_key = one_side(key, query, *places, factor, smoothing, -1) if to[1] else key.new_empty(0)
    return to_query, to_key


def one_side(
    ours: Tensor, others: Tensor, rows: Tensor, cols: Tensor, factor: Tensor, smoothing: float, sign: int
) -> Tensor:
    """The gradient of ours; in fp32 parts that are added in order, where not all others fit in a tile."""
    batch, _, length, width = ours.shape
    constants = sizes(ours, rows, smoothing) | backward_tile(length, width, ours.dtype)
    parts = triton.cdiv(length, constants["OTHERS"])
    grad = ours.new_empty(parts, *ours.shape, dtype=ours.dtype if parts == 1 else torch.float32)
    if not grad.numel():
        return ours.new_zeros(ours.shape)
    programs = batch * parts * triton.cdiv(length, constants["OURS"])
    tensors = ours, others, rows, cols, factor, grad
    with torch.cuda.device_of(ours):
        relation_backward[(programs,)](
            *tensors, batch, **constants, SIGN=sign, WIDEN=INTERPRETED, enable_fp_fusion=True
        )
    return grad[0] if parts == 1 else sum_parts(grad).to(ours.dtype)


def alike(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """With the same strides, channels side by side: views of one projection are read where they are."""
    if query.stride() == key.stride() and query.stride(3) == 1:
        return query, key
    return query.contiguous(), key.contiguous()


def sizes(query: Tensor, rows: Tensor, smoothing: float) -> dict[str, Any]:
    """What both kernels are compiled for."""
    length, width = query.shape[2:]
    image, head, token, _ = query.stride()
    return {
        "SCALE": width**-0.5 * LOG2_E,
        "SMOOTHING": smoothing,
        "LENGTH": length,
        "WIDTH": width,
        "IMAGE": image,
        "HEAD": head,
        "TOKEN": token,
        "PLACES": length if len(rows) > 1 else 0,
    }


def forward_tile(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Products in fp32 are three products of tensor cores in tf32, as exact as one of fp32 units."""
    precision, stages = ("ieee", 2) if dtype.itemsize == 2 else ("tf32x3", 1)
    options = {"PRECISION": precision, "num_warps": 8, "num_stages": stages}
    return {"QUERIES": 64, "KEYS": 32, "DEPTH": depth(width, dtype), **options}


def backward_tile(length: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """All others in one tile, up to 256, or 64 where they take four bytes."""
    precision, most = ("ieee", 256) if dtype.itemsize == 2 else ("tf32x3", 64)
    others = min(most, max(64, triton.next_power_of_2(length)))
    warps = 4 if others == 64 and dtype.itemsize == 2 else 8
    options = {"PRECISION": precision, "num_warps": warps, "num_stages": 1}
    return {"OURS": 32, "OTHERS": others, "DEPTH": depth(width, dtype), **options}


def depth(width: int, dtype: torch.dtype) -> int:
    """Channels in a step of the product: all, or as many as registers hold."""
    if dtype.itemsize > 2:
        return 16
    return max(16, triton.next_power_of_2(width)) if width <= 64 else 32


def specimens() -> list[Specimen]:
    """Heads of ViT-Ti, ViT-S and ViT-B over grids of 8 and of 14; heads that can be read 128 bits at once; fp32."""
    shapes = [("bf16", 64, 21), ("bf16", 64, 42), ("bf16", 196, 42), ("bf16", 196, 85), ("bf16", 196, 64)]
    shapes += [("fp32", 196, 42), ("fp32", 64, 85)]
    return [make(*shape) for shape in shapes for make in (forward_specimen, backward_specimen)] + [
        partial_sums.specimen("relation_loss sum of parts")
    ]


def forward_specimen(kind: str, length: int, width: int) -> Specimen:
    """Query and key are views of a projection to all channels of the heads."""
    tile = forward_tile(width, torch.bfloat16 if kind == "bf16" else torch.float32)
    pointers = {"query_ptr": f"*{kind}", "key_ptr": f"*{kind}", "sums_ptr": "*fp32"}
    return specimen(f"relation_loss forward {length} by {width}", relation_forward, pointers, kind, length, width, tile)


def backward_specimen(kind: str, length: int, width: int) -> Specimen:
    """As forward."""
    tile = backward_tile(length, width, torch.bfloat16 if kind == "bf16" else torch.float32)
    tile |= {"SIGN": -1}
    grad = kind if tile["OTHERS"] >= length else "fp32"
    pointers = {"ours_ptr": f"*{kind}", "others_ptr": f"*{kind}", "factor_ptr": "*fp32", "grad_ptr": f"*{grad}"}
    name = f"relation_loss backward {length} by {width}"
    return specimen(name, relation_backward, pointers | {"images": "i32"}, kind, length, width, tile)


def specimen(
    name: str, kernel: Any, arguments: dict[str, str], kind: str, length: int, width: int, tile: dict[str, Any]
) -> Specimen:
    """Of either kernel. Heads of 42 channels lie 84 bytes apart, so that nothing is read 128 bits at once."""
    projection = torch.empty(1, length, RELATIONS, width, device="meta").transpose(1, 2)
    constants = sizes(projection, projection.new_empty(2, length), 0.0) | tile | {"WIDEN": False}
    options = {option: constants.pop(option) for option in ("num_warps", "num_stages")}
    order = [each for each in kernel.arg_names if each in arguments or each in ("rows_ptr", "cols_ptr")]
    return Specimen(
        name if kind == "bf16" else f"{name} {kind}",
        kernel,
        {each: arguments.get(each, "*i64") for each in order},
        constants,
        options,
        odd=("images",),
        tensor_cores=True,
        wide_loads=width % 8 == 0,
    )
