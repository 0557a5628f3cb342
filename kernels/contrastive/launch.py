"""How the kernels are cut into programs and launched."""

from typing import Any

import torch
import triton
from torch import Tensor

from . import kernel
from .chunks import LOG2_E, NONE, SHORTEST, upstream

PROGRAMS = 256  # wanted at once: a number of its own, so that every GPU adds in the same order


def forward(
    query: Tensor, key: Tensor, temperature: float, positive: int, without: int, normalize: bool, ready: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As chunks.forward, but the log-sum-exp is in base 2."""
    (queries, width), keys = query.shape, len(key)
    query, key = _plain(query), _plain(key)
    loss, total = (query.new_empty(queries, dtype=torch.float32) for _ in range(2))
    to_query = query.new_empty(query.shape if ready else (0,), dtype=torch.float32)
    if not queries:
        return loss, total, to_query
    tile = forward_tile(query.dtype, width, ready)
    segments, share = cut(queries, keys, tile["ROWS"], tile["KEYS"])
    lse = loss.new_empty(segments, queries)
    value = loss.new_empty(segments, queries, width) if ready else None
    rows = query, key, *(_scales(x, normalize) for x in (query, key))
    sides = [None if diagonal == NONE else diagonal for diagonal in (positive, without)]
    scale = LOG2_E / temperature
    with torch.cuda.device_of(query):
        grid = (triton.cdiv(queries, tile["ROWS"]) * segments,)
        kernel.contrastive_forward[grid](*rows, lse, value, queries, keys, width, share, *sides, scale, **tile)
        small = merge_tile(width)
        kernel.contrastive_merge[(triton.cdiv(queries, small["ROWS"]),)](
            *rows,
            lse,
            value,
            loss,
            total,
            to_query if ready else None,
            queries,
            width,
            segments,
            sides[0],
            scale,
            **small,
        )
    return loss, total, to_query


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    loss: Tensor,
    lse: Tensor,
    temperature: float,
    positive: int,
    without: int,
    normalize: bool,
    to_key: bool,
) -> tuple[Tensor, Tensor]:
    """As chunks.backward."""
    raw, weight = (query, key), upstream(grad, loss, positive)
    query, key = _plain(query), _plain(key)
    query_scale, key_scale = _scales(query, normalize), _scales(key, normalize)
    settings = lse, temperature, positive, without
    query_grad = _gradient(raw[0], query, key, query_scale, key_scale, *settings, key_scale, weight, False)
    if not to_key:
        return query_grad, raw[1].new_empty(0)
    weight = weight if query_scale is None else weight * query_scale
    return query_grad, _gradient(raw[1], key, query, key_scale, query_scale, *settings, weight, None, True)


def _gradient(
    like: Tensor,
    row: Tensor,
    other: Tensor,
    row_scale: Tensor | None,
    other_scale: Tensor | None,
    lse: Tensor,
    temperature: float,
    positive: int,
    without: int,
    other_weight: Tensor | None,
    row_weight: Tensor | None,
    of_keys: bool,
) -> Tensor:
    """Of rows, which are queries or keys; the weights multiply what is summed, and the sums."""
    (rows, width), others = row.shape, len(other)
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    if not rows or not others:
        return out.zero_()
    tile = gradient_tile(row.dtype, width)
    segments, share = cut(rows, others, tile["ROWS"], tile["OTHERS"])
    parts = lse.new_empty(segments, rows, width)
    sides = [None if diagonal == NONE else diagonal for diagonal in (positive, without)]
    sizes = rows, others, width, share, *sides, LOG2_E / temperature
    with torch.cuda.device_of(row):
        grid = (triton.cdiv(rows, tile["ROWS"]) * segments,)
        kernel.contrastive_gradient[grid](
            row, other, row_scale, other_scale, lse, other_weight, parts, *sizes, OF_KEYS=of_keys, **tile
        )
        small = merge_tile(width)
        kernel.contrastive_gradient_merge[(triton.cdiv(rows, small["ROWS"]),)](
            parts, row, row_scale, row_weight, out, rows, width, segments, 1 / temperature, **small
        )
    return out


def _plain(raw: Tensor) -> Tensor:
    """fp16 goes into products of tf32, which hold it exactly and have the range of what it is multiplied with."""
    return (raw.float() if raw.dtype == torch.float16 else raw).contiguous()


def _scales(raw: Tensor, normalize: bool) -> Tensor | None:
    """What brings the rows to unit length."""
    if not normalize:
        return None
    out, tile = raw.new_empty(len(raw), dtype=torch.float32), merge_tile(raw.shape[1])
    if len(raw):
        with torch.cuda.device_of(raw):
            grid = (triton.cdiv(len(raw), tile["ROWS"]),)
            kernel.inverse_lengths[grid](raw, out, *raw.shape, SHORTEST, **tile)
    return out


def cut(rows: int, others: int, rows_at_once: int, others_at_once: int) -> tuple[int, int]:
    """How many segments the others are cut into, each of at least two steps, and how many are in each.

    >>> cut(1024, 8192, 128, 64)
    (32, 256)
    >>> cut(65536, 65536, 128, 64)
    (1, 65536)
    """
    steps = triton.cdiv(others, others_at_once)
    segments = max(1, min(PROGRAMS // triton.cdiv(rows, rows_at_once), steps // 2))
    share = triton.cdiv(steps, segments) * others_at_once
    return max(1, triton.cdiv(others, share)), share


def forward_tile(dtype: torch.dtype, width: int, ready: bool) -> dict[str, Any]:
    """Queries stay on chip; with the keys' mean beside them, fewer fit."""
    if dtype == torch.bfloat16:
        rows, keys = (64, 64) if ready and width > 128 else (128, 64 if ready else 128)
        return _tile(width, dtype, rows, "KEYS", keys)
    return _tile(width, dtype, 64, "KEYS", 32)


def gradient_tile(dtype: torch.dtype, width: int) -> dict[str, Any]:
    """As forward_tile with the mean."""
    if dtype == torch.bfloat16:
        return _tile(width, dtype, 64 if width > 128 else 128, "OTHERS", 64)
    return _tile(width, dtype, 64, "OTHERS", 64, stages=1)


def _tile(width: int, dtype: torch.dtype, rows: int, of: str, others: int, stages: int = 2) -> dict[str, Any]:
    return {
        "ROWS": rows,
        of: others,
        "WIDTH": _columns(width),
        "PRECISION": "ieee" if dtype == torch.bfloat16 else "tf32",
        "WIDEN": kernel.INTERPRETED,
        "num_warps": 8,
        "num_stages": stages,
        "enable_fp_fusion": True,
    }


def merge_tile(width: int) -> dict[str, Any]:
    """16 numbers a thread."""
    columns = _columns(width)
    rows = max(1, min(16, 2048 // columns))
    return {"ROWS": rows, "WIDTH": columns, "num_warps": 4, "enable_fp_fusion": True}


def _columns(width: int) -> int:
    return max(16, triton.next_power_of_2(width))
