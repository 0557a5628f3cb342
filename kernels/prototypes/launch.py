"""How the Triton kernels are launched: tiles, segments of the prototypes, and the order of the passes."""

from typing import Any

import torch
import triton
from torch import Tensor

from .._shared.partial_sums import sum_parts
from .kernel import INTERPRETED, prototypes_join, prototypes_softmax, prototypes_to_weight

PROGRAMS = 132  # that run at once on an H100: a constant, so that every GPU adds in the same order
LEAST_SEGMENTS = 4  # where rows fill the GPU by themselves, up to so many segments even out its last turn
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def forward(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
) -> Four:
    """student [V, B, d], teacher [G, B, d] -> loss, gradient [V, B, d], and sums [V * B, 2] and [G * B, 2], all fp32"""
    rows, answers = (x.flatten(0, 1).contiguous() for x in (student, teacher))
    if not len(rows):
        loss, sums = rows.new_zeros((), dtype=torch.float32), rows.new_empty(0, 2, dtype=torch.float32)
        return loss, torch.zeros_like(student, dtype=torch.float32), sums, sums.clone()
    weight, teacher_weight, center = (x.contiguous() for x in (weight, teacher_weight, center))
    value = None if teacher_weight is weight else weight
    parts = softmax(answers, teacher_weight, value, center, teacher_temperature)
    teacher_sums, targets, _ = join(*parts, teacher_temperature)
    parts = softmax(rows, weight, None, None, student_temperature)
    views = (student.shape[1], len(student), len(teacher))
    sums, gradient, losses = join(*parts, student_temperature, rows, targets, views)
    return sum_parts(losses), gradient.view(student.shape), sums, teacher_sums


def softmax(
    rows: Tensor, key: Tensor, value: Tensor | None, center: Tensor | None, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows [R, d] over each of S segments of the prototypes: largest and total [S, R], mean [S, R, d]"""
    count, width = rows.shape
    tile = softmax_tile(rows.dtype, width)
    per_segment = segment(triton.cdiv(count, tile["ROWS"]), len(key), tile["PROTOTYPES"])
    segments = triton.cdiv(len(key), per_segment)
    largest, total = (rows.new_empty(segments, count, dtype=torch.float32) for _ in range(2))
    mean = largest.new_empty(segments, count, width)
    grid = (triton.cdiv(count, tile["ROWS"]), segments, triton.cdiv(width, tile["COLUMNS"]))
    with torch.cuda.device_of(rows):
        prototypes_softmax[grid](
            rows,
            key,
            value,
            center,
            temperature,
            largest,
            total,
            mean,
            count,
            len(key),
            per_segment,
            **tile,
            FEATURES=width,
            WIDEN=INTERPRETED,
            enable_fp_fusion=True,
        )
    return largest, total, mean


def join(
    largest: Tensor,
    total: Tensor,
    mean: Tensor,
    temperature: Tensor,
    rows: Tensor | None = None,
    targets: Tensor | None = None,
    views: tuple[int, int, int] = (1, 1, 1),
) -> tuple[Tensor, Tensor, Tensor]:
    """What softmax found -> its sums [R, 2], and its mean [R, d]; with targets the gradient, and shares of the loss

    views: images, views and teachers.
    """
    segments, count, width = mean.shape
    tile = join_tile(width)
    programs = triton.cdiv(count, tile["ROWS"])
    sums, out, losses = largest.new_empty(count, 2), largest.new_empty(count, width), largest.new_empty(programs)
    with torch.cuda.device_of(mean):
        prototypes_join[(programs,)](
            largest,
            total,
            mean,
            temperature,
            rows,
            targets,
            sums,
            out,
            None if targets is None else losses,
            count,
            segments,
            *views,
            **tile,
            FEATURES=width,
            enable_fp_fusion=True,
        )
    return sums, out, losses


def to_weight(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    sums: Tensor,
    teacher_sums: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """What forward took and found -> the gradient of weight [K, d] in a type"""
    (views, images, width), prototypes = student.shape, len(weight)
    if not images:
        return weight.new_zeros(weight.shape, dtype=dtype)
    out = weight.new_empty(weight.shape, dtype=dtype)
    tile = to_weight_tile(student.dtype, width)
    tensors = (x.contiguous() for x in (student, teacher, weight, teacher_weight, center))
    with torch.cuda.device_of(weight):
        prototypes_to_weight[(triton.cdiv(prototypes, tile["PROTOTYPES"]), triton.cdiv(width, tile["COLUMNS"]))](
            grad,
            *tensors,
            student_temperature,
            teacher_temperature,
            sums,
            teacher_sums,
            out,
            images,
            views,
            len(teacher),
            prototypes,
            **tile,
            FEATURES=width,
            WIDEN=INTERPRETED,
            enable_fp_fusion=True,
        )
    return out


def segment(tiles: int, prototypes: int, step: int) -> int:
    """How many prototypes a program goes through, a multiple of a step, so that programs of all tiles fill the GPU."""
    blocks, segments = triton.cdiv(prototypes, step), PROGRAMS // tiles
    if segments < LEAST_SEGMENTS:
        segments = min(range(1, LEAST_SEGMENTS + 1), key=lambda some: triton.cdiv(tiles * some, PROGRAMS) / some)
    return triton.cdiv(blocks, segments) * step


def softmax_tile(dtype: torch.dtype, width: int) -> dict[str, Any]:
    """Rows and keys whole on the chip in 16-bit types; in fp32, three products in tf32, they come in pieces."""
    if dtype.itemsize == 2:
        return {"ROWS": 128, "PROTOTYPES": 32, **whole(width), "num_warps": 8, "num_stages": 2}
    return {"ROWS": 64, "PROTOTYPES": 32, **pieces(width), "num_warps": 8, "num_stages": 1}


def to_weight_tile(dtype: torch.dtype, width: int) -> dict[str, Any]:
    """As above; eight warps hold a sum of 64 prototypes beside both softmaxes."""
    if dtype.itemsize == 2:
        return {"ROWS": 32, "PROTOTYPES": 64, **whole(width), "num_warps": 8, "num_stages": 2}
    return {"ROWS": 32, "PROTOTYPES": 64, **pieces(width), "num_warps": 8, "num_stages": 1}


def whole(width: int) -> dict[str, Any]:
    """All features at once."""
    columns = max(16, triton.next_power_of_2(width))
    return {"WIDTH": columns, "COLUMNS": columns, "DEPTH": columns, "WHOLE": True, "PRECISION": "ieee"}


def pieces(width: int) -> dict[str, Any]:
    """32 features a step of a logit, and 128 of a mean, or of a gradient, a program."""
    columns = max(16, triton.next_power_of_2(width))
    sizes = {"WIDTH": columns, "COLUMNS": min(128, columns), "DEPTH": min(32, columns)}
    return {**sizes, "WHOLE": False, "PRECISION": "tf32x3"}


def join_tile(width: int) -> dict[str, int]:
    """8 numbers a thread."""
    return {"ROWS": 4, "WIDTH": max(16, triton.next_power_of_2(width)), "num_warps": 4}
