"""Triton: softmaxes over keys that pass by, in segments where rows are few, merged in a fixed order."""

# mypy: allow-untyped-defs

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def inverse_lengths(raw_ptr, out_ptr, rows, width, shortest, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """out [rows] = 1 / max(|raw|, shortest)"""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    raw = tl.load(raw_ptr + (row * width)[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(raw * raw, 1))
    tl.store(out_ptr + row, 1 / tl.maximum(length, shortest), mask=row < rows)


@triton.jit
def contrastive_forward(
    query_ptr,
    key_ptr,
    query_scale_ptr,
    key_scale_ptr,
    lse_ptr,
    value_ptr,
    queries,
    keys,
    width,
    keys_per_segment,
    positive,
    without,
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """lse [segments, queries], in base 2, of the keys of each segment but i + positive and i + without, and, unless
    it is None, value [segments, queries, width]: those keys by their probability. scale = log2(e) / temperature
    """
    tiles = tl.cdiv(queries, ROWS)
    segment = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < queries)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    query = tl.load(query_ptr + offset, mask=inside, other=0.0)
    if WIDEN:  # the interpreter cannot multiply bfloat16
        query = query.to(tl.float32)
    factor = tl.full((ROWS,), scale, tl.float32)
    if query_scale_ptr is not None:
        factor *= tl.load(query_scale_ptr + row, mask=row < queries, other=0.0)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    value = tl.zeros((ROWS, WIDTH), tl.float32)
    first = segment * keys_per_segment
    last = tl.minimum(first + keys_per_segment, keys)
    for start in range(first, last, KEYS):
        other = start + tl.arange(0, KEYS)
        known = (other < last)[:, None] & (column < width)[None, :]
        key = tl.load(key_ptr + other.to(tl.int64)[:, None] * width + column[None, :], mask=known, other=0.0)
        if WIDEN:
            key = key.to(tl.float32)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * factor[:, None]
        if key_scale_ptr is not None:
            key_scale = tl.load(key_scale_ptr + other, mask=other < last, other=0.0)
            score *= key_scale[None, :]
        apart = other[None, :] - row[:, None]
        hidden = (other >= last)[None, :]
        if positive is not None:
            hidden |= apart == positive
        if without is not None:
            hidden |= apart == without
        score = tl.where(hidden, float("-inf"), score)
        above = tl.maximum(highest, tl.max(score, 1))
        base = tl.where(above == float("-inf"), 0.0, above)  # where no key is left yet
        shrink = tl.exp2(highest - base)
        power = tl.exp2(score - base[:, None])
        total = total * shrink + tl.sum(power, 1)
        if value_ptr is not None:
            if key_scale_ptr is not None:
                power *= key_scale[None, :]
            value = tl.dot(power.to(key.dtype), key, acc=value * shrink[:, None], input_precision=PRECISION)
        highest = above
    offset += segment.to(tl.int64) * queries * width
    tl.store(lse_ptr + segment.to(tl.int64) * queries + row, highest + tl.log2(total), mask=row < queries)
    if value_ptr is not None:
        tl.store(value_ptr + offset, value / tl.where(total > 0, total, 1.0)[:, None], mask=inside)


@triton.jit
def contrastive_merge(
    query_ptr,
    key_ptr,
    query_scale_ptr,
    key_scale_ptr,
    lse_ptr,
    value_ptr,
    loss_ptr,
    total_ptr,
    to_query_ptr,
    queries,
    width,
    segments,
    positive,
    scale,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """From what the segments found: loss and log-sum-exp, in base 2, [queries], and d loss / d query unless it is None.

    With a positive, whose logit is s, loss = log(1 + exp(lse - s)): neither it nor the gradient is a difference of
    numbers that are nearly equal.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < queries)[:, None] & (column < width)[None, :]
    offset = (row * width)[:, None] + column[None, :]
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    value = tl.zeros((ROWS, WIDTH), tl.float32)
    for _ in range(segments):
        part = tl.load(lse_ptr + row, mask=row < queries, other=0.0)
        above = tl.maximum(highest, part)
        base = tl.where(above == float("-inf"), 0.0, above)
        shrink, power = tl.exp2(highest - base), tl.exp2(part - base)
        total = total * shrink + power
        if value_ptr is not None:
            mean = tl.load(value_ptr + offset, mask=inside, other=0.0)
            value = value * shrink[:, None] + mean * power[:, None]
            value_ptr += queries.to(tl.int64) * width
        lse_ptr += queries
        highest = above
    lse = highest + tl.log2(total)
    tl.store(total_ptr + row, lse, mask=row < queries)
    loss = lse * LN_2
    value /= tl.where(total > 0, total, 1.0)[:, None]
    unit = tl.load(query_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    if query_scale_ptr is not None:
        query_scale = tl.load(query_scale_ptr + row, mask=row < queries, other=0.0)[:, None]
        unit *= query_scale
    if positive is not None:
        own = tl.load(key_ptr + offset + positive * width, mask=inside, other=0.0).to(tl.float32)
        if key_scale_ptr is not None:
            own *= tl.load(key_scale_ptr + row + positive, mask=row < queries, other=0.0)[:, None]
        gap = lse - tl.sum(unit * own, 1) * scale
        odds = tl.exp2(-tl.abs(gap))
        more = 1 + odds
        less = tl.where(more == 1, odds, tl.log(more) * odds / tl.where(more == 1, 1.0, more - 1))  # log(1 + odds)
        loss = tl.maximum(gap, 0.0) * LN_2 + less
        value = (value - own) * (1 / (1 + tl.exp2(-gap)))[:, None]
    tl.store(loss_ptr + row, loss, mask=row < queries)
    if to_query_ptr is not None:
        value *= scale * LN_2
        if query_scale_ptr is not None:
            value = (value - unit * tl.sum(value * unit, 1)[:, None]) * query_scale
        tl.store(to_query_ptr + offset, value, mask=inside)


@triton.jit
def contrastive_gradient(
    row_ptr,
    other_ptr,
    row_scale_ptr,
    other_scale_ptr,
    lse_ptr,
    weight_ptr,
    out_ptr,
    rows,
    others,
    width,
    others_per_segment,
    positive,
    without,
    scale,
    OF_KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    OTHERS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """out [segments, rows, width]: others by their probability, and by weight unless it is None, less the positive.

    Rows are queries and others keys, or, OF_KEYS, the other way round; lse, in base 2, is that of the queries.
    """
    tiles = tl.cdiv(rows, ROWS)
    segment = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    offset = row.to(tl.int64)[:, None] * width + column[None, :]
    resident = tl.load(row_ptr + offset, mask=inside, other=0.0)
    if WIDEN:  # the interpreter cannot multiply bfloat16
        resident = resident.to(tl.float32)
    factor = tl.full((ROWS,), scale, tl.float32)
    if row_scale_ptr is not None:
        factor *= tl.load(row_scale_ptr + row, mask=row < rows, other=0.0)
    if not OF_KEYS:
        row_lse = tl.load(lse_ptr + row, mask=row < rows, other=0.0)
    out = tl.zeros((ROWS, WIDTH), tl.float32)
    first = segment * others_per_segment
    last = tl.minimum(first + others_per_segment, others)
    for start in range(first, last, OTHERS):
        other = start + tl.arange(0, OTHERS)
        known = (other < last)[:, None] & (column < width)[None, :]
        passing = tl.load(other_ptr + other.to(tl.int64)[:, None] * width + column[None, :], mask=known, other=0.0)
        if WIDEN:
            passing = passing.to(tl.float32)
        score = tl.dot(resident, tl.trans(passing), input_precision=PRECISION) * factor[:, None]
        if other_scale_ptr is not None:
            score *= tl.load(other_scale_ptr + other, mask=other < last, other=0.0)[None, :]
        if OF_KEYS:
            share = tl.exp2(score - tl.load(lse_ptr + other, mask=other < last, other=0.0)[None, :])
            apart = row[:, None] - other[None, :]
        else:
            share = tl.exp2(score - row_lse[:, None])
            apart = other[None, :] - row[:, None]
        if positive is not None:
            share = tl.where(apart == positive, -1.0, share)
        if without is not None:
            share = tl.where(apart == without, 0.0, share)
        share = tl.where((other < last)[None, :], share, 0.0)
        if weight_ptr is not None:
            share *= tl.load(weight_ptr + other, mask=other < last, other=0.0)[None, :]
        out = tl.dot(share.to(passing.dtype), passing, acc=out, input_precision=PRECISION)
    tl.store(out_ptr + segment.to(tl.int64) * rows * width + offset, out, mask=inside)


@triton.jit
def contrastive_gradient_merge(
    parts_ptr,
    raw_ptr,
    raw_scale_ptr,
    weight_ptr,
    out_ptr,
    rows,
    width,
    segments,
    inverse_temperature,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """out [rows, width]: the sum of the segments, by the weight of its row, before rows were brought to unit length."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    offset = (row * width)[:, None] + column[None, :]
    grad = tl.zeros((ROWS, WIDTH), tl.float32)
    for _ in range(segments):
        grad += tl.load(parts_ptr + offset, mask=inside, other=0.0)
        parts_ptr += rows.to(tl.int64) * width
    grad *= inverse_temperature
    if weight_ptr is not None:
        grad *= tl.load(weight_ptr + row, mask=row < rows, other=0.0)[:, None]
    if raw_scale_ptr is not None:
        raw_scale = tl.load(raw_scale_ptr + row, mask=row < rows, other=0.0)[:, None]
        unit = tl.load(raw_ptr + offset, mask=inside, other=0.0).to(tl.float32) * raw_scale
        grad = (grad - unit * tl.sum(grad * unit, 1)[:, None]) * raw_scale
    tl.store(out_ptr + offset, grad.to(out_ptr.dtype.element_ty), mask=inside)
