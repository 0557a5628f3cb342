"""Triton: one program draws the whole plan of an image: noise, order, places, labels and ranks in one launch."""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.philox import ORDER, WRONG
from .._shared.specimen import Specimen
from .op import MOST_PATCHES
from .reference import Plan, shift


@triton.jit
def random_bits(run, step, sample, STREAM: tl.constexpr, COUNT: tl.constexpr):
    """24 random bits for the indices 0 .. COUNT-1 of a stream: a Philox call serves four of them."""
    group = tl.arange(0, COUNT // 4).to(tl.uint32)
    zero = group * 0
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    first, second, third, fourth = tl.philox(
        run, group + (STREAM << 24), zero + low, zero + high, zero + step.to(tl.uint32)
    )
    words = tl.join(tl.join(first, third), tl.join(second, fourth))
    return words.reshape(COUNT) >> 8


@triton.jit
def draw_plan(
    seed_ptr,
    sample_ids_ptr,
    keep_ptr,
    place_ptr,
    wrong_ptr,
    restore_ptr,
    patches,
    kept,
    turn,
    wrong_probability,
    ORDER: tl.constexpr,
    WRONG: tl.constexpr,
    PATCHES: tl.constexpr,
):
    """The plan of image program_id(0): keep, place and wrong [kept], restore [patches]."""
    image = tl.program_id(0).to(tl.int64)
    run, step, sample = tl.load(seed_ptr), tl.load(seed_ptr + 1), tl.load(sample_ids_ptr + image)
    rank = tl.arange(0, PATCHES)
    drawn = random_bits(run, step, sample, ORDER, PATCHES)
    # The index makes keys distinct, and puts those beyond the last patch behind all others.
    drawn = tl.where(rank < patches, drawn, 0xFFFFFF)
    if PATCHES <= 256:
        order = (tl.sort((drawn << 8) | rank.to(tl.uint32)) & 0xFF).to(tl.int32)
    else:
        order = (tl.sort((drawn.to(tl.int64) << 32) | rank) & 0xFFFF).to(tl.int32)
    donor = tl.gather(order, (rank + turn) % patches, 0)
    chance = random_bits(run, step, sample, WRONG, PATCHES).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    wrong = chance < wrong_probability
    slot, inside = image * kept + rank, rank < kept
    tl.store(keep_ptr + slot, order.to(tl.int64), mask=inside)
    tl.store(place_ptr + slot, tl.where(wrong, donor, order).to(tl.int64), mask=inside)
    tl.store(wrong_ptr + slot, wrong, mask=inside)
    tl.store(restore_ptr + image * patches + order, rank.to(tl.int64), mask=rank < patches)


def draw(seed: Tensor, sample_ids: Tensor, num_patches: int, keep: int, wrong_probability: float) -> Plan:
    """What the reference draws, to the bit."""
    batch = len(sample_ids)
    kept, place = (sample_ids.new_empty(batch, keep) for _ in range(2))
    wrong, restore = sample_ids.new_empty(batch, keep, dtype=torch.bool), sample_ids.new_empty(batch, num_patches)
    if batch:
        with torch.cuda.device_of(sample_ids):
            draw_plan[(batch,)](
                seed.contiguous(),
                sample_ids.contiguous(),
                kept,
                place,
                wrong,
                restore,
                num_patches,
                keep,
                num_patches - keep or shift(num_patches),
                wrong_probability,
                ORDER=ORDER,
                WRONG=WRONG,
                **tile(num_patches),
            )
    return kept, place, wrong, restore


def tile(num_patches: int) -> dict[str, int]:
    """A warp sorts up to 256 keys by exchanges within itself; more share the work."""
    width = max(16, triton.next_power_of_2(num_patches))
    return {"PATCHES": width, "num_warps": max(1, width // 256)}


def specimens() -> list[Specimen]:
    """Plans of 196 patches, and of as many as a program can sort."""
    arguments = {"seed_ptr": "*i64", "sample_ids_ptr": "*i64", "keep_ptr": "*i64", "place_ptr": "*i64"}
    arguments |= {"wrong_ptr": "*i1", "restore_ptr": "*i64", "wrong_probability": "fp32"}
    sizes = dict.fromkeys(("patches", "kept", "turn"), "i32")
    found = []
    for patches in (196, MOST_PATCHES):
        shape = tile(patches)
        options = {"num_warps": shape.pop("num_warps")}
        found.append(
            Specimen(
                f"sample_tokens {patches}",
                draw_plan,
                {**arguments, **sizes},
                {"ORDER": ORDER, "WRONG": WRONG, **shape},
                options,
                odd=("wrong_probability", *sizes),
                wide_loads=False,  # reads three numbers
            )
        )
    return found
