"""Triton: a few rows a program; backward, programs keep the sums of many rows and a second kernel adds those up."""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.partial_sums import specimen as specimen_of_sum
from .._shared.partial_sums import sum_parts
from .._shared.specimen import Specimen

WIDEST = 4096
ROWS_PER_PART = 64  # the sum over rows is cut by their number alone, so that every GPU adds in the same order
MOST_PARTS = 512


@triton.jit
def add_layer_norm_forward(
    x_ptr,
    branch_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    drop_path_ptr,
    total_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    rows,
    width,
    rows_per_image,
    eps,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """total and out [rows, width]: the sum, unless there is no branch, and its LayerNorm; mean and rstd [rows]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    offset = (row * width)[:, None] + column[None, :]
    x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    if branch_ptr is not None:
        branch = tl.load(branch_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        if scale_ptr is not None:
            branch *= tl.load(scale_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
        if drop_path_ptr is not None:
            image = row // rows_per_image
            branch *= tl.load(drop_path_ptr + image, mask=row < rows, other=0.0).to(tl.float32)[:, None]
        total = (x + branch).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + offset, total, mask=inside)
        x = total.to(tl.float32)
    mean = tl.sum(x, 1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=column < width, other=0.0).to(tl.float32)
    out = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(mean_ptr + row, mean, mask=row < rows)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)


@triton.jit
def add_layer_norm_backward(
    grad_ptr,
    total_grad_ptr,
    total_ptr,
    branch_ptr,
    weight_ptr,
    scale_ptr,
    drop_path_ptr,
    mean_ptr,
    rstd_ptr,
    x_grad_ptr,
    branch_grad_ptr,
    sums_ptr,
    rows,
    width,
    rows_per_image,
    rows_per_part,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Gradients of x and branch [rows, width], and sums over the rows of each part, for those of the vectors.

    sums [parts, 2 or 3, width]: for weight, bias and scale, if there is one. The branch's gradient is x's unless
    there is a factor between them or they differ in type.
    """
    part = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    to_weight = tl.zeros((ROWS, WIDTH), tl.float32)
    to_bias = tl.zeros((ROWS, WIDTH), tl.float32)
    to_scale = tl.zeros((ROWS, WIDTH), tl.float32)
    first = part.to(tl.int64) * rows_per_part
    last = tl.minimum(first + rows_per_part, rows)
    for start in range(0, rows_per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (column < width)[None, :]
        offset = (row * width)[:, None] + column[None, :]
        mean = tl.load(mean_ptr + row, mask=row < last, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < last, other=0.0)
        total = tl.load(total_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        normal = tl.where(inside, (total - mean[:, None]) * rstd[:, None], 0.0)
        to_weight += grad * normal
        to_bias += grad
        grad *= weight
        along = tl.sum(grad * normal, 1) / width
        x_grad = (grad - (tl.sum(grad, 1) / width)[:, None] - normal * along[:, None]) * rstd[:, None]
        if total_grad_ptr is not None:
            x_grad += tl.load(total_grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        tl.store(x_grad_ptr + offset, x_grad.to(x_grad_ptr.dtype.element_ty), mask=inside)
        if branch_grad_ptr is not None:
            if drop_path_ptr is not None:
                image = row // rows_per_image
                x_grad *= tl.load(drop_path_ptr + image, mask=row < last, other=0.0).to(tl.float32)[:, None]
            if scale_ptr is not None:
                branch = tl.load(branch_ptr + offset, mask=inside, other=0.0).to(tl.float32)
                to_scale += tl.where(inside, x_grad * branch, 0.0)
                x_grad *= tl.load(scale_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
            tl.store(branch_grad_ptr + offset, x_grad.to(branch_grad_ptr.dtype.element_ty), mask=inside)
    vectors = 2 if scale_ptr is None else 3
    sums_ptr += part * vectors * width + column
    tl.store(sums_ptr, tl.sum(to_weight, 0), mask=column < width)
    tl.store(sums_ptr + width, tl.sum(to_bias, 0), mask=column < width)
    if scale_ptr is not None:
        tl.store(sums_ptr + 2 * width, tl.sum(to_scale, 0), mask=column < width)


def forward(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None,
    drop_path: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> the sum (empty where there is no branch) and its LayerNorm like x, mean and rstd [rows]"""
    width = x.shape[-1]
    rows = x.numel() // width
    total = x.new_empty(0 if branch is None else x.shape)
    out = x.new_empty(x.shape, dtype=dtype)
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    inputs = [None if t is None else t.contiguous() for t in (x, branch, weight, bias, scale, drop_path)]
    if rows:
        block = forward_tile(width)
        with torch.cuda.device_of(x):
            add_layer_norm_forward[(triton.cdiv(rows, block["ROWS"]),)](
                *inputs, total, out, mean, rstd, rows, width, rows // len(x), eps, **block, enable_fp_fusion=True
            )
    return total, out, mean, rstd


def backward(
    grad: Tensor,
    total_grad: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    scale: Tensor | None,
    drop_path: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    branch_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> gradients of x and branch, the latter empty where it has no type, and fp32 of weight, bias and scale"""
    rows, width = len(mean), total.shape[-1]
    x_grad = torch.empty_like(total)
    branch_grad = total.new_empty(total.shape if branch_dtype else (0,), dtype=branch_dtype)
    rows_per_part = max(ROWS_PER_PART, triton.cdiv(rows, MOST_PARTS))
    parts, vectors = triton.cdiv(rows, rows_per_part), 2 if scale is None else 3
    sums = mean.new_empty(parts, vectors, width)
    if not rows:
        return x_grad, branch_grad, sums.sum(0)
    inputs = [
        None if t is None else t.contiguous()
        for t in (grad, total_grad, total, branch, weight, scale, drop_path, mean, rstd)
    ]
    outputs = x_grad, branch_grad if branch_dtype else None, sums
    with torch.cuda.device_of(grad):
        add_layer_norm_backward[(parts,)](
            *inputs,
            *outputs,
            rows,
            width,
            rows // len(total),
            rows_per_part,
            **backward_tile(width),
            enable_fp_fusion=True,
        )
    return x_grad, branch_grad, sum_parts(sums)


def forward_tile(width: int) -> dict[str, int]:
    """Whole rows, up to four at once and 16 numbers a thread."""
    return tile(width, 4, 16)


def backward_tile(width: int) -> dict[str, int]:
    """Half of that, as each thread holds three sums beside what it reads."""
    return tile(width, 2, 8)


def tile(width: int, most_rows: int, numbers: int) -> dict[str, int]:
    """So many rows at most, and so many numbers a thread."""
    columns = max(16, triton.next_power_of_2(width))
    rows = max(1, min(most_rows, WIDEST // columns))
    warps = max(1, min(8, rows * columns // (32 * numbers)))
    return {"ROWS": rows, "WIDTH": columns, "num_warps": warps}


def specimens() -> list[Specimen]:
    """Widths 384 and 768: bf16 alone, and an fp32 stream with bf16 branches, LayerScale and drop path."""
    found = [specimen_of_sum("add_layer_norm sum_parts")]
    for width in (384, 768):
        for name, stream, factors in (
            ("bf16", "*bf16", {"scale_ptr": None, "drop_path_ptr": None}),
            ("fp32", "*fp32", {}),
        ):
            found += [specimen(direction, name, stream, factors, width) for direction in ("forward", "backward")]
    return found


def specimen(direction: str, name: str, stream: str, absent: dict[str, None], width: int) -> Specimen:
    """One kernel; the arguments that are absent are compiled away."""
    kernel, sizes = add_layer_norm_forward, forward_tile(width)
    if direction == "backward":
        kernel, sizes = add_layer_norm_backward, backward_tile(width)
    if absent and direction == "backward":
        absent = {**absent, "branch_ptr": None, "branch_grad_ptr": None}
    types = dict.fromkeys(("x_ptr", "total_ptr", "total_grad_ptr", "x_grad_ptr"), stream)
    types |= dict.fromkeys(("branch_ptr", "branch_grad_ptr", "out_ptr", "grad_ptr"), "*bf16")
    types |= dict.fromkeys(("rows", "width", "rows_per_image", "rows_per_part"), "i32") | {"eps": "fp32"}
    options = {"num_warps": sizes.pop("num_warps")}
    arguments = {
        argument: types.get(argument, "*fp32")
        for argument in kernel.arg_names
        if argument not in sizes and argument not in absent
    }
    odd = ("rows", "rows_per_image", "rows_per_part", "eps")
    title = f"add_layer_norm {direction} {name} {width}"
    return Specimen(title, kernel, arguments, {**sizes, **absent}, options, odd=odd)
