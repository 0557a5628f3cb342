"""Triton: one program draws the mask of an image, whose rows of bits stay in its registers until it is done."""

# mypy: allow-untyped-defs
# ruff: noqa: N803

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.philox import BLOCKS
from .._shared.specimen import Specimen
from .bitmap import WORD, words
from .rule import Rule, rule_of


@triton.jit
def below(word, limit):
    """0 .. limit - 1 by the upper 24 bits."""
    return ((word >> 8).to(tl.int64) * limit >> 24).to(tl.int32)


@triton.jit
def nearest(pixels, ALIGN: tl.constexpr):
    """pixels / ALIGN, rounded half to even."""
    whole, twice = pixels // ALIGN, pixels % ALIGN * 2
    return whole + ((twice > ALIGN) | ((twice == ALIGN) & (whole % 2 == 1))).to(tl.int32)


@triton.jit
def span(place, extent, length: tl.constexpr, most: tl.constexpr, ALIGN: tl.constexpr, CENTERED: tl.constexpr):
    """First pixel of a block along an axis, and the one behind its last."""
    choices: tl.constexpr = most - ALIGN if most > ALIGN else 1
    places: tl.constexpr = length if CENTERED or length == ALIGN else length - ALIGN
    pixels = ALIGN + below(extent, choices)
    if CENTERED:
        size = nearest(pixels, ALIGN)
        first = (2 * below(place, places) + 1 + (size + 1) * ALIGN) // (2 * ALIGN) - size
        end = tl.minimum(first + size, length // ALIGN)
        first = tl.maximum(first, 0)
    else:
        first = below(place, places) // ALIGN
        end = first + nearest(tl.minimum(pixels, length - first * ALIGN), ALIGN)
    return first * ALIGN, end * ALIGN


@triton.jit
def with_block(rows, top, bottom, left, right, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """rows uint32 [ROWS, WORDS] with the bits of a block set."""
    row, start = tl.arange(0, ROWS), tl.arange(0, WORDS) * 32
    one = tl.full((WORDS,), 1, tl.int64)
    low = tl.minimum(tl.maximum(left - start, 0), 32).to(tl.int64)
    high = tl.minimum(tl.maximum(right - start, 0), 32).to(tl.int64)
    bits = ((one << high) - (one << low)).to(tl.uint32)
    return rows | tl.where(((row >= top) & (row < bottom))[:, None], bits[None, :], 0)


@triton.jit
def count_bits(rows):
    """How many are set."""
    pairs = rows - ((rows >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    eights = (fours + (fours >> 4)) & 0x0F0F0F0F
    return tl.sum(tl.sum(((eights * 0x01010101) >> 24).to(tl.int32), 1), 0)


@triton.jit
def spread(
    bitmap_ptr, mask_ptr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WORDS: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """mask [HEIGHT, WIDTH] from its bitmap."""
    row_words: tl.constexpr = (WIDTH + 31) // 32
    column = tl.arange(0, WORDS * 32)[None, :]
    for start in range(0, HEIGHT, CHUNK):
        row = start + tl.arange(0, CHUNK)[:, None]
        inside = (row < HEIGHT) & (column < WIDTH)
        word = tl.load(bitmap_ptr + row * row_words + column // 32, mask=inside, other=0)
        tl.store(mask_ptr + row * WIDTH + column, ((word >> (column % 32)) & 1).to(tl.int1), mask=inside)


@triton.jit
def draw_mask(
    seed_ptr, sample_ids_ptr, target_ptr, bitmap_ptr, mask_ptr, draws, stride,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, ALIGN: tl.constexpr, TALLEST: tl.constexpr, WIDEST: tl.constexpr,
    CENTERED: tl.constexpr, STREAM: tl.constexpr, ROWS: tl.constexpr, WORDS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The mask of image program_id(0): bitmap [HEIGHT, ceil(WIDTH / 32)] and mask [HEIGHT, WIDTH]"""
    across: tl.constexpr = WIDTH // ALIGN
    units: tl.constexpr = HEIGHT // ALIGN * across
    row_words: tl.constexpr = (WIDTH + 31) // 32
    image = tl.program_id(0).to(tl.int64)
    run, step, sample = tl.load(seed_ptr), tl.load(seed_ptr + 1).to(tl.uint32), tl.load(sample_ids_ptr + image)
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    needed = tl.load(target_ptr + image).to(tl.float64) * units
    rows = tl.zeros((ROWS, WORDS), tl.uint32)
    covered, block = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    while (block < draws) & (covered.to(tl.float64) < needed):
        place, across_place, tall, wide = tl.philox(run, block.to(tl.uint32) + (STREAM << 24), low, high, step)
        top, bottom = span(place, tall, HEIGHT, TALLEST, ALIGN, CENTERED)
        left, right = span(across_place, wide, WIDTH, WIDEST, ALIGN, CENTERED)
        rows = with_block(rows, top, bottom, left, right, ROWS, WORDS)
        covered = count_bits(rows) // (ALIGN * ALIGN)
        block += 1
    # Where there is something left to cover, all blocks are drawn and `block` is the number of draws.
    begun, _, _, _ = tl.philox(run, block.to(tl.uint32) + (STREAM << 24), low, high, step)
    unit = below(begun, units)
    while covered.to(tl.float64) < tl.minimum(needed, units):
        top, left = unit // across * ALIGN, unit % across * ALIGN
        rows = with_block(rows, top, top + ALIGN, left, left + ALIGN, ROWS, WORDS)
        covered = count_bits(rows) // (ALIGN * ALIGN)
        unit = (unit + stride) % units
    row, word = tl.arange(0, ROWS)[:, None], tl.arange(0, WORDS)[None, :]
    bitmap = bitmap_ptr + image * (HEIGHT * row_words)
    inside = (row < HEIGHT) & (word < row_words)
    tl.store(bitmap + row * row_words + word, rows.to(tl.int32, bitcast=True), mask=inside)
    tl.debug_barrier()  # other threads of the program read what was written
    spread(bitmap, mask_ptr + image * (HEIGHT * WIDTH), HEIGHT, WIDTH, WORDS, CHUNK)


def draw(seed: Tensor, sample_ids: Tensor, target: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """What the reference draws, to the bit."""
    batch = len(sample_ids)
    bitmap = sample_ids.new_empty(batch, rule.height, words(rule.width), dtype=torch.int32)
    mask = sample_ids.new_empty(batch, rule.height, rule.width, dtype=torch.bool)
    if batch:
        given = (seed.contiguous(), sample_ids.contiguous(), target.contiguous(), bitmap, mask)
        with torch.cuda.device_of(sample_ids):
            draw_mask[(batch,)](*given, rule.draws, rule.stride, **constants(rule), num_warps=warps(rule))
    return bitmap, mask


def constants(rule: Rule) -> dict[str, Any]:
    """What the code is made for: one kind of mask."""
    rows, row_words = triton.next_power_of_2(rule.height), triton.next_power_of_2(words(rule.width))
    return {
        "HEIGHT": rule.height,
        "WIDTH": rule.width,
        "ALIGN": rule.align,
        "TALLEST": rule.tallest,
        "WIDEST": rule.widest,
        "CENTERED": rule.centered,
        "STREAM": BLOCKS,
        "ROWS": rows,
        "WORDS": row_words,
        "CHUNK": max(1, 4096 // (WORD * row_words)),
    }


def warps(rule: Rule) -> int:
    """As many as keep 16 words a thread."""
    tile = triton.next_power_of_2(rule.height) * triton.next_power_of_2(words(rule.width))
    return min(16, max(1, tile // 512))


def specimens() -> list[Specimen]:
    """Masks of 224 px, of pixels and of patches, and the largest."""
    arguments = {"seed_ptr": "*i64", "sample_ids_ptr": "*i64", "target_ptr": "*fp32", "bitmap_ptr": "*i32"}
    arguments |= {"mask_ptr": "*i1", "draws": "i32", "stride": "i32"}
    return [
        Specimen(
            f"group_mask {side} px by {align}",
            draw_mask,
            arguments,
            constants(rule),
            {"num_warps": warps(rule)},
            odd=("draws", "stride"),
            wide_loads=False,  # reads four numbers, and words that 32 threads share
        )
        for side, align in ((224, 1), (224, 16), (512, 1))
        for rule in [rule_of((side, side), align, 0.3, "corner")]
    ]
