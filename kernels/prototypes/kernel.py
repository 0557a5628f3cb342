"""Triton: a softmax over prototypes and the mean of prototypes under it in one pass, as in attention."""

# mypy: allow-untyped-defs

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def products(
    left_ptr,
    left,
    left_end,
    right_ptr,
    right,
    right_end,
    FEATURES: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """left . right of rows left [L] and right [R], both before an end: [L, R], of DEPTH features at a time"""
    out = tl.zeros((left.shape[0], right.shape[0]), tl.float32)
    deep = tl.arange(0, DEPTH)
    for start in range(0, FEATURES, DEPTH):
        there = (deep < FEATURES - start)[None, :]
        left_at = left_ptr + left.to(tl.int64)[:, None] * FEATURES + (start + deep)[None, :]
        right_at = right_ptr + right.to(tl.int64)[:, None] * FEATURES + (start + deep)[None, :]
        first = tl.load(left_at, mask=there & (left < left_end)[:, None], other=0.0)
        second = tl.load(right_at, mask=there & (right < right_end)[:, None], other=0.0)
        out = tl.dot(first, tl.trans(second), acc=out, input_precision=PRECISION)
    return out


@triton.jit
def prototypes_softmax(
    rows_ptr,
    key_ptr,
    value_ptr,
    center_ptr,
    temperature_ptr,
    largest_ptr,
    total_ptr,
    mean_ptr,
    rows,
    prototypes,
    per_segment,
    ROWS: tl.constexpr,
    PROTOTYPES: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Of rows [rows, FEATURES] over one segment of the prototypes: largest, total [segments, rows], mean [.., FEATURES]

    A logit x is row . key - center, the latter 0 if None; largest is that of all x, total the sum of
    exp((x - largest) / temperature), mean the sum of value with these as factors. value is key if it is None.
    A program takes COLUMNS of the mean. WHOLE keeps rows and keys on the chip, and COLUMNS has to be all then.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    segment = tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known = (row < rows)[:, None] & (column < FEATURES)[None, :]
    if WHOLE:
        query = tl.load(rows_ptr + row[:, None] * FEATURES + column[None, :], mask=known, other=0.0)
        if WIDEN:  # the interpreter cannot multiply bfloat16
            query = query.to(tl.float32)
    scale = LOG2_E / tl.load(temperature_ptr)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, COLUMNS), tl.float32)
    first = segment * per_segment
    last = tl.minimum(first + per_segment, prototypes)
    tile = tl.arange(0, PROTOTYPES)[:, None] * FEATURES + column[None, :]
    skipped = first.to(tl.int64) * FEATURES
    for start in range(first, last, PROTOTYPES):
        other = start + tl.arange(0, PROTOTYPES)
        inside = (other < last)[:, None] & (column < FEATURES)[None, :]
        if WHOLE:
            key = tl.load(key_ptr + skipped + tile, mask=inside, other=0.0)
            if WIDEN:
                key = key.to(tl.float32)
            logit = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        else:
            logit = products(rows_ptr, row, rows, key_ptr, other, last, FEATURES, DEPTH, PRECISION)
        if center_ptr is None:
            logit = tl.where((other < last)[None, :], logit, float("-inf"))
        else:
            logit -= tl.load(center_ptr + other, mask=other < last, other=float("inf"))[None, :]
        above = tl.maximum(highest, tl.max(logit, 1))
        shrink = tl.exp2((highest - above) * scale)
        power = tl.exp2((logit - above[:, None]) * scale)  # the difference first: large logits would round the product
        total = total * shrink + tl.sum(power, 1)
        if WHOLE and value_ptr is None:
            value = key
        else:
            value_at = key_ptr if value_ptr is None else value_ptr
            value = tl.load(value_at + skipped + tile, mask=inside, other=0.0)
            if WIDEN:
                value = value.to(tl.float32)
        mean = tl.dot(power.to(value.dtype), value, acc=mean * shrink[:, None], input_precision=PRECISION)
        highest = above
        skipped += PROTOTYPES * FEATURES
    if tl.program_id(2) == 0:
        tl.store(largest_ptr + segment * rows + row, highest, mask=row < rows)
        tl.store(total_ptr + segment * rows + row, total, mask=row < rows)
    mean_ptr += (segment.to(tl.int64) * rows + tl.program_id(0) * ROWS) * FEATURES
    tl.store(mean_ptr + tl.arange(0, ROWS)[:, None] * FEATURES + column[None, :], mean, mask=known)


@triton.jit
def prototypes_join(
    largest_ptr,
    total_ptr,
    mean_ptr,
    temperature_ptr,
    rows_ptr,
    targets_ptr,
    sums_ptr,
    out_ptr,
    losses_ptr,
    rows,
    segments,
    images,
    views,
    teachers,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """sums [rows, 2], and out [rows, FEATURES]: the segments' largest, total and mean joined

    With targets [teachers * images, FEATURES], the teachers' means, out is the gradient of the loss for each row
    [views * images], and losses [programs] are shares of the loss.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    known = (row < rows)[:, None] & (column < FEATURES)[None, :]
    offset = row.to(tl.int64)[:, None] * FEATURES + column[None, :]
    temperature = tl.load(temperature_ptr)
    scale = LOG2_E / temperature
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, WIDTH), tl.float32)
    for segment in range(segments):
        place = segment * rows + row
        largest = tl.load(largest_ptr + place, mask=row < rows, other=0.0)
        above = tl.maximum(highest, largest)
        old, new = tl.exp2((highest - above) * scale), tl.exp2((largest - above) * scale)
        total = total * old + tl.load(total_ptr + place, mask=row < rows, other=1.0) * new
        part = tl.load(mean_ptr + place.to(tl.int64)[:, None] * FEATURES + column[None, :], mask=known, other=0.0)
        mean = mean * old[:, None] + part * new[:, None]
        highest = above
    mean /= total[:, None]
    tl.store(sums_ptr + 2 * row, highest, mask=row < rows)
    tl.store(sums_ptr + 2 * row + 1, total, mask=row < rows)
    if targets_ptr is not None:
        image, view = row % images, row // images
        target = tl.zeros((ROWS, WIDTH), tl.float32)
        for g in range(teachers):  # a view has nothing to learn from its own teacher
            taught_at = targets_ptr + (g * images + image)[:, None] * FEATURES + column[None, :]
            target += tl.load(taught_at, mask=known & (view != g)[:, None], other=0.0)
        count = teachers - tl.where(view < teachers, 1, 0)
        guess = tl.load(rows_ptr + offset, mask=known, other=0.0).to(tl.float32)
        pairs = (views - 1) * teachers * images * 1.0
        far = count * highest - tl.sum(guess * target, 1)  # large logits cancel before the rest
        loss = far / temperature + count * tl.log(total)
        tl.store(losses_ptr + tl.program_id(0), tl.sum(tl.where(row < rows, loss / pairs, 0.0), 0))
        mean = (mean * count[:, None] - target) / (temperature * pairs)
    tl.store(out_ptr + offset, mean, mask=known)


@triton.jit
def prototypes_to_weight(
    grad_ptr,
    student_ptr,
    teacher_ptr,
    weight_ptr,
    teacher_weight_ptr,
    center_ptr,
    student_temperature_ptr,
    teacher_temperature_ptr,
    sums_ptr,
    teacher_sums_ptr,
    out_ptr,
    images,
    views,
    teachers,
    prototypes,
    ROWS: tl.constexpr,
    PROTOTYPES: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """out [prototypes, FEATURES], the gradient of the student's: a program takes PROTOTYPES of them, and every row

    Both softmaxes are computed again from their sums [.., 2], and meet in fp32 before the product with the students.
    """
    prototype = tl.program_id(0) * PROTOTYPES + tl.arange(0, PROTOTYPES)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = (prototype < prototypes)[:, None] & (column < FEATURES)[None, :]
    offset = tl.arange(0, PROTOTYPES)[:, None] * FEATURES + column[None, :]
    skipped = tl.program_id(0).to(tl.int64) * (PROTOTYPES * FEATURES)
    if WHOLE:
        weight = tl.load(weight_ptr + skipped + offset, mask=known, other=0.0)
        theirs = tl.load(teacher_weight_ptr + skipped + offset, mask=known, other=0.0)
        if WIDEN:  # the interpreter cannot multiply bfloat16
            weight, theirs = weight.to(tl.float32), theirs.to(tl.float32)
    center = tl.load(center_ptr + prototype, mask=prototype < prototypes, other=0.0)
    temperature = tl.load(student_temperature_ptr)
    scale, teacher_scale = LOG2_E / temperature, LOG2_E / tl.load(teacher_temperature_ptr)
    out = tl.zeros((PROTOTYPES, COLUMNS), tl.float32)
    for start in range(0, images, ROWS):
        image = start + tl.arange(0, ROWS)
        inside = (image < images)[:, None] & (column < FEATURES)[None, :]
        target = tl.zeros((PROTOTYPES, ROWS), tl.float32)
        for turn in range(teachers + views):  # each teacher adds to the target, which then meets every view
            own = turn - teachers
            g = tl.where(own < 0, turn, own)
            answer = tl.zeros((PROTOTYPES, ROWS), tl.float32)
            if g < teachers:
                row = g * images + image
                if WHOLE:
                    z = tl.load(teacher_ptr + row[:, None] * FEATURES + column[None, :], mask=inside, other=0.0)
                    if WIDEN:
                        z = z.to(tl.float32)
                    logit = tl.dot(theirs, tl.trans(z), input_precision=PRECISION)
                else:
                    end = g * images + images
                    logit = products(
                        teacher_weight_ptr, prototype, prototypes, teacher_ptr, row, end, FEATURES, DEPTH, PRECISION
                    )
                largest = tl.load(teacher_sums_ptr + 2 * row, mask=image < images, other=float("inf"))
                total = tl.load(teacher_sums_ptr + 2 * row + 1, mask=image < images, other=1.0)
                answer = tl.exp2((logit - center[:, None] - largest[None, :]) * teacher_scale) / total[None, :]
            if own < 0:
                target += answer
            else:
                count = teachers - tl.where(own < teachers, 1, 0)
                row = own * images + image
                guess = tl.load(student_ptr + row[:, None] * FEATURES + column[None, :], mask=inside, other=0.0)
                if WIDEN:
                    guess = guess.to(tl.float32)
                if WHOLE:
                    logit = tl.dot(weight, tl.trans(guess), input_precision=PRECISION)
                else:
                    end = own * images + images
                    logit = products(
                        weight_ptr, prototype, prototypes, student_ptr, row, end, FEATURES, DEPTH, PRECISION
                    )
                largest = tl.load(sums_ptr + 2 * row, mask=image < images, other=float("inf"))
                total = tl.load(sums_ptr + 2 * row + 1, mask=image < images, other=1.0)
                excess = tl.exp2((logit - largest[None, :]) * scale) * (count / total)[None, :] - (target - answer)
                out = tl.dot(excess.to(guess.dtype), guess, acc=out, input_precision=PRECISION)
    factor = tl.load(grad_ptr).to(tl.float32) / (temperature * ((views - 1) * teachers * images))
    tl.store(out_ptr + skipped + offset, (out * factor).to(out_ptr.dtype.element_ty), mask=known)
