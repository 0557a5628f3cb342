"""Triton: AdamW and LARS with the teacher's average and 16-bit copies, over many tensors in one launch."""

# mypy: allow-untyped-defs

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.specimen import Specimen
from .table import sent

BLOCK, WARPS = 1024, 4
COLUMNS = 10  # of the table, as in table.py
PER_TENSOR = 64  # blocks of a tensor whose squares are added at once


@triton.jit
def _block(table_ptr, owner_ptr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """The table's row of this program's tensor, the places in it, its size, whether the block is full."""
    row = table_ptr + tl.load(owner_ptr + tl.program_id(0) * 2).to(tl.int64) * COLUMNS
    start = tl.load(owner_ptr + tl.program_id(0) * 2 + 1).to(tl.int64) * BLOCK
    size = tl.load(row + 7)
    return row, start + tl.arange(0, BLOCK), size, start + BLOCK <= size


@triton.jit
def _numbers(row, column, at, mask):
    """Numbers of one array; every array begins at a multiple of 16 bytes."""
    ptr = tl.multiple_of(tl.load(row + column).to(tl.pointer_type(tl.float32)), 16)
    return tl.load(ptr + at) if mask is None else tl.load(ptr + at, mask=mask, other=0.0)


@triton.jit
def _store(row, column, at, value, mask):
    ptr = tl.multiple_of(tl.load(row + column).to(tl.pointer_type(tl.float32)), 16)
    tl.store(ptr + at, value, mask=mask)


@triton.jit
def _store_rounded(row, column, at, value, mask):
    ptr = tl.multiple_of(tl.load(row + column).to(tl.pointer_type(tl.bfloat16)), 16)
    tl.store(ptr + at, value.to(tl.bfloat16), mask=mask)


@triton.jit
def _follow(row, at, p, pull, mask, TEACHER: tl.constexpr, COPY: tl.constexpr, TEACHER_COPY: tl.constexpr):
    """What comes after the update while p is at hand: teacher, and the copies of both."""
    if TEACHER:
        teacher = _numbers(row, 4, at, mask)
        teacher += pull * (p - teacher)
        _store(row, 4, at, teacher, mask)
        if TEACHER_COPY:
            _store_rounded(row, 6, at, teacher, mask)
    if COPY:
        _store_rounded(row, 5, at, p, mask)


@triton.jit
def _adamw(row, at, hyper, mask, TEACHER: tl.constexpr, COPY: tl.constexpr, TEACHER_COPY: tl.constexpr):
    lr, eps = tl.load(hyper), tl.load(hyper + 4)
    grad = _numbers(row, 1, at, mask) * tl.load(hyper + 7)
    first = _numbers(row, 2, at, mask)
    first += tl.load(hyper + 2) * (grad - first)
    second = _numbers(row, 3, at, mask)
    second += tl.load(hyper + 3) * (grad * grad - second)
    deviation = tl.sqrt_rn(second) / tl.sqrt_rn(tl.load(hyper + 6)) + eps
    p = _numbers(row, 0, at, mask) * (1.0 - lr * tl.load(hyper + 1))
    p -= lr / tl.load(hyper + 5) * (first / deviation)
    _store(row, 0, at, p, mask)
    _store(row, 2, at, first, mask)
    _store(row, 3, at, second, mask)
    _follow(row, at, p, tl.load(hyper + 8), mask, TEACHER, COPY, TEACHER_COPY)


@triton.jit
def adamw_kernel(
    table_ptr,
    owner_ptr,
    hyper_ptr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    TEACHER: tl.constexpr,
    COPY: tl.constexpr,
    TEACHER_COPY: tl.constexpr,
):
    """A block of one tensor a program; owner [blocks, 2] is its tensor and its place in it."""
    row, at, size, full = _block(table_ptr, owner_ptr, BLOCK, COLUMNS)
    hyper = hyper_ptr + tl.load(row + 8) * 10
    if tl.load(hyper + 9) == 0.0:
        if full:  # without a mask, 128 bits are read at once
            _adamw(row, at, hyper, None, TEACHER, COPY, TEACHER_COPY)
        else:
            _adamw(row, at, hyper, at < size, TEACHER, COPY, TEACHER_COPY)


@triton.jit
def _squares(row, at, hyper, mask):
    p = _numbers(row, 0, at, mask)
    grad = _numbers(row, 1, at, mask) * tl.load(hyper + 4) + tl.load(hyper + 1) * p
    return tl.sum(p * p), tl.sum(grad * grad)


@triton.jit
def squares_kernel(table_ptr, owner_ptr, hyper_ptr, parts_ptr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """parts [blocks, 2]: sums of p^2 and g'^2 over a block; nought for vectors"""
    row, at, size, full = _block(table_ptr, owner_ptr, BLOCK, COLUMNS)
    hyper = hyper_ptr + tl.load(row + 8) * 7
    ours, theirs = 0.0, 0.0
    if tl.load(row + 9) != 0:
        if full:
            ours, theirs = _squares(row, at, hyper, None)
        else:
            ours, theirs = _squares(row, at, hyper, at < size)
    tl.store(parts_ptr + tl.program_id(0) * 2, ours)
    tl.store(parts_ptr + tl.program_id(0) * 2 + 1, theirs)


@triton.jit
def ratio_kernel(table_ptr, begin_ptr, hyper_ptr, parts_ptr, ratio_ptr, COLUMNS: tl.constexpr, PARTS: tl.constexpr):
    """ratio [tensors]: trust |p| / |g'|, 1 where either is 0. A tensor a program; begin [tensors + 1] are its blocks"""
    tensor = tl.program_id(0)
    start, end = tl.load(begin_ptr + tensor), tl.load(begin_ptr + tensor + 1)
    ours = tl.zeros((PARTS,), tl.float32)
    theirs = tl.zeros((PARTS,), tl.float32)
    for block in range(start, end, PARTS):
        part = block + tl.arange(0, PARTS)
        ours += tl.load(parts_ptr + part * 2, mask=part < end, other=0.0)
        theirs += tl.load(parts_ptr + part * 2 + 1, mask=part < end, other=0.0)
    weight, grad = tl.sqrt_rn(tl.sum(ours)), tl.sqrt_rn(tl.sum(theirs))
    hyper = hyper_ptr + tl.load(table_ptr + tensor.to(tl.int64) * COLUMNS + 8) * 7
    some = (weight > 0.0) & (grad > 0.0)
    tl.store(ratio_ptr + tensor, tl.where(some, tl.load(hyper + 3) * weight / tl.where(some, grad, 1.0), 1.0))


@triton.jit
def _lars(row, at, hyper, ratio, mask, TEACHER: tl.constexpr, COPY: tl.constexpr, TEACHER_COPY: tl.constexpr):
    p = _numbers(row, 0, at, mask)
    decay = tl.where(tl.load(row + 9) != 0, tl.load(hyper + 1), 0.0)
    grad = _numbers(row, 1, at, mask) * tl.load(hyper + 4) + decay * p
    moved = _numbers(row, 2, at, mask) * tl.load(hyper + 2) + grad * ratio
    p -= tl.load(hyper) * moved
    _store(row, 0, at, p, mask)
    _store(row, 2, at, moved, mask)
    _follow(row, at, p, tl.load(hyper + 5), mask, TEACHER, COPY, TEACHER_COPY)


@triton.jit
def lars_kernel(
    table_ptr,
    owner_ptr,
    hyper_ptr,
    ratio_ptr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    TEACHER: tl.constexpr,
    COPY: tl.constexpr,
    TEACHER_COPY: tl.constexpr,
):
    """A block of one tensor a program."""
    row, at, size, full = _block(table_ptr, owner_ptr, BLOCK, COLUMNS)
    hyper = hyper_ptr + tl.load(row + 8) * 7
    ratio = tl.load(ratio_ptr + tl.load(owner_ptr + tl.program_id(0) * 2))
    if tl.load(hyper + 6) == 0.0:
        if full:
            _lars(row, at, hyper, ratio, None, TEACHER, COPY, TEACHER_COPY)
        else:
            _lars(row, at, hyper, ratio, at < size, TEACHER, COPY, TEACHER_COPY)


def adamw(table: Tensor, hyper: Tensor) -> None:
    """One launch for the tensors of a table that lies on the host."""
    owner, _ = layout(tuple(table[:, 7].tolist()), hyper.device)
    with torch.cuda.device_of(hyper):
        rows = sent(table, hyper.device, owner)
        adamw_kernel[(len(owner),)](rows, owner, hyper, **kinds(table), num_warps=WARPS, enable_fp_fusion=False)


def lars(table: Tensor, hyper: Tensor) -> None:
    """Squares of blocks, ratios of tensors, the update."""
    owner, begin = layout(tuple(table[:, 7].tolist()), hyper.device)
    parts, ratio = hyper.new_empty(len(owner), 2), hyper.new_empty(len(table))
    sizes = {"BLOCK": BLOCK, "COLUMNS": COLUMNS, "num_warps": WARPS, "enable_fp_fusion": False}
    with torch.cuda.device_of(hyper):
        rows = sent(table, hyper.device, owner, begin)
        squares_kernel[(len(owner),)](rows, owner, hyper, parts, **sizes)
        ratio_kernel[(len(table),)](rows, begin, hyper, parts, ratio, COLUMNS=COLUMNS, PARTS=PER_TENSOR, num_warps=2)
        lars_kernel[(len(owner),)](rows, owner, hyper, ratio, **kinds(table), num_warps=WARPS, enable_fp_fusion=False)


def kinds(table: Tensor) -> dict[str, object]:
    """Constants of a launch: what follows the update, the same for every tensor of a table."""
    teacher, copy, teacher_copy = (bool(address) for address in table[0, 4:7].tolist())
    return {"BLOCK": BLOCK, "COLUMNS": COLUMNS, "TEACHER": teacher, "COPY": copy, "TEACHER_COPY": teacher_copy}


@lru_cache(maxsize=64)
def layout(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Each block's tensor and which of its blocks it is, int32 [blocks, 2]; each tensor's first block."""
    counts = torch.tensor([triton.cdiv(size, BLOCK) for size in sizes])
    begin = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    tensor = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    owner = torch.stack([tensor, torch.arange(len(tensor)) - begin[tensor]], 1)
    return owner.to(device, torch.int32), begin.to(device, torch.int32)


def specimens() -> list[Specimen]:
    """With everything that may follow an update, and with nothing."""
    common = {"table_ptr": "*i64", "owner_ptr": "*i32", "hyper_ptr": "*fp32"}
    every = {"BLOCK": BLOCK, "COLUMNS": COLUMNS, "TEACHER": True, "COPY": True, "TEACHER_COPY": True}
    none = {**every, "TEACHER": False, "COPY": False, "TEACHER_COPY": False}
    four = {"num_warps": WARPS}
    squares = {**common, "parts_ptr": "*fp32"}
    ratio = {"table_ptr": "*i64", "begin_ptr": "*i32", "hyper_ptr": "*fp32", "parts_ptr": "*fp32", "ratio_ptr": "*fp32"}
    moved = {**common, "ratio_ptr": "*fp32"}
    sizes, parts = {"BLOCK": BLOCK, "COLUMNS": COLUMNS}, {"COLUMNS": COLUMNS, "PARTS": PER_TENSOR}
    return [
        Specimen("adamw_ema", adamw_kernel, common, every, four),
        Specimen("adamw_ema without teacher", adamw_kernel, common, none, four),
        Specimen("lars_ema squares", squares_kernel, squares, sizes, four),
        Specimen("lars_ema ratios", ratio_kernel, ratio, parts, {"num_warps": 2}, wide_loads=False),
        Specimen("lars_ema", lars_kernel, moved, every, four),
    ]
