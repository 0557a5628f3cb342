"""Triton: tokens are read once for logits, loss and accuracy, and once for all gradients, a few rows at a time."""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.partial_sums import specimen as specimen_of_sum
from .._shared.partial_sums import sum_parts
from .._shared.specimen import Specimen

WIDEST = 4096
ROWS_PER_PART = 32  # the sum over rows is cut by their number alone, so that every GPU adds in the same order
MOST_PARTS = 1024


@triton.jit
def detection_loss_forward(
    tokens_ptr,
    weight_ptr,
    bias_ptr,
    wrong_ptr,
    logits_ptr,
    sums_ptr,
    rows,
    width,
    rows_per_part,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """logits [rows], and sums [parts, 2] over the rows of each part: the loss, and how many tokens are judged right

    The loss of a row is log(1 + exp(x)), x its logit, or minus its logit where the token is at a wrong place.
    """
    part = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr).to(tl.float32)
    losses = tl.zeros((ROWS,), tl.float32)
    right = tl.zeros((ROWS,), tl.float32)
    first = part.to(tl.int64) * rows_per_part
    last = tl.minimum(first + rows_per_part, rows)
    for start in range(0, rows_per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (column < width)[None, :]
        offset = (row * width)[:, None] + column[None, :]
        tokens = tl.load(tokens_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        wrong = tl.load(wrong_ptr + row, mask=row < last, other=0) != 0
        logit = tl.sum(tokens * weight, 1) + bias
        tl.store(logits_ptr + row, logit, mask=row < last)
        towards = tl.where(wrong, -logit, logit)
        small = tl.exp(-tl.abs(towards))
        rounded = 1 + small  # log(1 + small) to the last digit, also of a small one
        logarithm = tl.where(rounded == 1, small, tl.log(rounded) * small / tl.where(rounded == 1, 1.0, rounded - 1))
        losses += tl.where(row < last, tl.maximum(towards, 0.0) + logarithm, 0.0)
        right += tl.where((row < last) & ((logit > 0) == wrong), 1.0, 0.0)
    tl.store(sums_ptr + 2 * part, tl.sum(losses, 0))
    tl.store(sums_ptr + 2 * part + 1, tl.sum(right, 0))


@triton.jit
def detection_loss_backward(
    grad_ptr,
    tokens_ptr,
    weight_ptr,
    wrong_ptr,
    logits_ptr,
    tokens_grad_ptr,
    sums_ptr,
    rows,
    width,
    rows_per_part,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """tokens_grad [rows, width], unless None, and sums [parts, width + 1] over rows: gradients of weight and bias"""
    part = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
    factor = tl.load(grad_ptr).to(tl.float32) / rows
    to_weight = tl.zeros((ROWS, WIDTH), tl.float32)
    to_bias = tl.zeros((ROWS,), tl.float32)
    first = part.to(tl.int64) * rows_per_part
    last = tl.minimum(first + rows_per_part, rows)
    for start in range(0, rows_per_part, ROWS):
        row = first + start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & (column < width)[None, :]
        offset = (row * width)[:, None] + column[None, :]
        tokens = tl.load(tokens_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        wrong = tl.load(wrong_ptr + row, mask=row < last, other=0) != 0
        logit = tl.load(logits_ptr + row, mask=row < last, other=0.0)
        share = 1 / (1 + tl.exp(tl.where(wrong, logit, -logit)))
        error = tl.where(row < last, tl.where(wrong, -share, share) * factor, 0.0)
        if tokens_grad_ptr is not None:
            tokens_grad = error[:, None] * weight
            tl.store(tokens_grad_ptr + offset, tokens_grad.to(tokens_grad_ptr.dtype.element_ty), mask=inside)
        to_weight += error[:, None] * tokens
        to_bias += error
    sums_ptr += part.to(tl.int64) * (width + 1)
    tl.store(sums_ptr + column, tl.sum(to_weight, 0), mask=column < width)
    tl.store(sums_ptr + width, tl.sum(to_bias, 0))


def forward(tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tokens [B, K, D], weight [D], bias [] or [1], wrong [B, K] -> loss, accuracy, logits [B, K], all fp32"""
    rows, width = wrong.numel(), len(weight)
    logits = tokens.new_empty(wrong.shape, dtype=torch.float32)
    if not rows:
        return logits.new_zeros(()), logits.new_zeros(()), logits
    parts, rows_per_part = partition(rows)
    sums = logits.new_empty(parts, 2)
    inputs = (tokens.contiguous(), weight.contiguous(), bias, wrong.contiguous().view(torch.uint8))
    with torch.cuda.device_of(tokens):
        detection_loss_forward[(parts,)](
            *inputs, logits, sums, rows, width, rows_per_part, **tile(width), enable_fp_fusion=True
        )
    loss, right = sum_parts(sums).unbind()
    return loss / rows, right / rows, logits


def backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, wrong: Tensor, logits: Tensor, to_tokens: bool
) -> tuple[Tensor, Tensor]:
    """-> gradient of tokens, empty unless asked for, and in fp32 [D + 1] those of weight and bias"""
    rows, width = wrong.numel(), len(weight)
    tokens_grad = tokens.new_empty(tokens.shape if to_tokens else (0,))
    if not rows:
        return tokens_grad, logits.new_zeros(width + 1)
    parts, rows_per_part = partition(rows)
    sums = logits.new_empty(parts, width + 1)
    inputs = (grad, tokens.contiguous(), weight.contiguous(), wrong.contiguous().view(torch.uint8), logits)
    with torch.cuda.device_of(tokens):
        detection_loss_backward[(parts,)](
            *inputs,
            tokens_grad if to_tokens else None,
            sums,
            rows,
            width,
            rows_per_part,
            **tile(width),
            enable_fp_fusion=True,
        )
    return tokens_grad, sum_parts(sums)


def partition(rows: int) -> tuple[int, int]:
    """How many parts, and how many rows each has."""
    rows_per_part = max(ROWS_PER_PART, triton.cdiv(rows, MOST_PARTS))
    return triton.cdiv(rows, rows_per_part), rows_per_part


def tile(width: int) -> dict[str, int]:
    """Whole rows, up to four at once, and 16 numbers a thread."""
    columns = max(16, triton.next_power_of_2(width))
    rows = max(1, min(4, WIDEST // columns))
    return {"ROWS": rows, "WIDTH": columns, "num_warps": max(1, min(8, rows * columns // 512))}


def specimens() -> list[Specimen]:
    """Tokens of ViT-S and ViT-B."""
    kinds = (("bf16", 384), ("bf16", 768), ("fp32", 384))
    kernels = (("forward", detection_loss_forward), ("backward", detection_loss_backward))
    found = [specimen(f"detection_loss {name}", kernel, *kind) for kind in kinds for name, kernel in kernels]
    return [*found, specimen_of_sum("detection_loss sum_parts")]


def specimen(name: str, kernel: triton.JITFunction, kind: str, width: int) -> Specimen:
    """Tokens are of the kind; the head is fp32."""
    sizes = tile(width)
    options = {"num_warps": sizes.pop("num_warps")}
    types = dict.fromkeys(("tokens_ptr", "tokens_grad_ptr"), f"*{kind}") | {"wrong_ptr": "*u8"}
    types |= dict.fromkeys(("rows", "width", "rows_per_part"), "i32")
    arguments = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names if argument not in sizes}
    return Specimen(f"{name} {kind} {width}", kernel, arguments, sizes, options, odd=("rows", "rows_per_part"))
