"""The one seam through which every encoder attends: schema, gradients, groups and the choice of a kernel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, forced, note, triton_obstacle
from .._shared.registration import autocast_dtype, operator
from . import backends, reference

Lengths = Sequence[tuple[int, int]]


@operator("attention")
def _forward(qkv: Tensor, num_heads: int, counts: list[int], lengths: list[int]) -> tuple[Tensor, Tensor]:
    """qkv [T, 3*D] -> out [T, D] and the logarithms (base 2) of the softmax's denominators, fp32 [T * H]"""
    from . import kernel

    return kernel.forward(qkv, num_heads, counts, lengths)


@_forward.register_fake
def _(qkv: Tensor, num_heads: int, counts: list[int], lengths: list[int]) -> tuple[Tensor, Tensor]:
    tokens, width = qkv.shape
    return qkv.new_empty(tokens, width // 3), qkv.new_empty(tokens * num_heads, dtype=torch.float32)


@operator("attention_backward")
def _to_qkv(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_heads: int, counts: list[int], lengths: list[int]
) -> Tensor:
    """grad [T, D] -> gradient of qkv [T, 3*D]"""
    from . import kernel

    return kernel.backward(grad, qkv, out, lse, num_heads, counts, lengths)


@_to_qkv.register_fake
def _(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_heads: int, counts: list[int], lengths: list[int]
) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, *ctx.shape = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _to_qkv(grad, *ctx.saved_tensors, *ctx.shape), None, None, None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtype: torch.dtype, head_width: int, longest: int, unavailable: str | None, asked: bool) -> str | None:
    """Why the Triton kernel cannot or, unless it is asked for, should not run for such sequences, or None."""
    if unavailable:
        return unavailable
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float64:
        return "the kernel adds in fp32, and qkv is float64"
    if dtype == torch.float32 and not asked:
        return "in fp32 PyTorch's kernels are taken unless ours is asked for"
    if head_width not in (16, 32, 64):
        return f"the kernel takes heads 16, 32 or 64 wide, not {head_width}"
    most = 64 if dtype == torch.float32 else 256  # in fp32 the backward pass keeps no more on chip
    return f"the kernel takes up to {most} tokens in {name}, not {longest}" if longest > most else None


def chosen(device_type: str, dtype: torch.dtype, head_width: int, longest: int) -> str:
    """Triton for short sequences on a GPU, else PyTorch's kernels, unless another is asked for.

    Only a missing Triton is a surprise there: for what the kernel was not made for, PyTorch's are the right choice.
    """
    wish = forced("attention")
    if wish in backends.OTHERS:
        found = backends.obstacle(wish, device_type, dtype, head_width)
        return "torch" if found and note("attention", found) else wish
    unavailable = triton_obstacle(device_type)
    found = obstacle(dtype, head_width, longest, unavailable, wish == "triton")
    return choose("attention", found, expected=device_type == "cuda" and unavailable is not None)


def attention(qkv: Tensor, num_heads: int, lengths: Lengths | None = None) -> Tensor:
    """out[n] = sum over m of softmax_m(q[n] . k[m] / sqrt(d)) v[m], for each sequence and head

    qkv [B, N, 3*D] holds query, key and value side by side, each as num_heads blocks of d = D / num_heads; the
    result is [B, N, D] in the type of qkv, or in that of autocast. With lengths, sequences of different
    lengths lie in one buffer [T, 3*D]: groups of (count, length), one after the other; the result is [T, D].
    The softmax is taken in fp32. ValueError where a shape does not fit.

    `use` knows all implementations here: triton (heads 16, 32 or 64 wide, up to 256 tokens in 16-bit types;
    where it is asked for, up to 64 in fp32), torch (PyTorch's own, cuDNN first on a Hopper), cudnn (PyTorch's by
    cuDNN alone), flash, flash3 and flash4 (FlashAttention 2, 3 and 4) and reference.

    >>> attention(torch.zeros(2, 5, 3 * 8), num_heads=2).shape
    torch.Size([2, 5, 8])
    >>> attention(torch.zeros(2 * 5 + 1 * 3, 3 * 8), num_heads=2, lengths=[(2, 5), (1, 3)]).shape
    torch.Size([13, 8])
    """
    _check(qkv, num_heads, lengths)
    qkv = qkv.to(autocast_dtype(qkv) or qkv.dtype)
    groups = [(qkv.shape[0], qkv.shape[1])] if lengths is None else lengths
    counts, each = [count for count, _ in groups], [length for _, length in groups]
    name = chosen(qkv.device.type, qkv.dtype, qkv.shape[-1] // 3 // num_heads, max(each))
    if name == "reference":
        return reference.attention(qkv, num_heads, lengths)
    if name == "triton":
        out, _ = _forward(qkv.reshape(-1, qkv.shape[-1]), num_heads, counts, each)
        return out.view(*qkv.shape[:-1], out.shape[1])
    return _by_group(name, qkv, num_heads, lengths)


def _by_group(name: str, qkv: Tensor, num_heads: int, lengths: Lengths | None) -> Tensor:
    """By a kernel for sequences of one length."""
    attend = backends.BACKENDS[name]
    if lengths is None:
        return attend(qkv, num_heads)
    parts = qkv.split([count * length for count, length in lengths])
    groups = [part.view(*shape, qkv.shape[1]) for part, shape in zip(parts, lengths, strict=True)]
    return torch.cat([attend(group, num_heads).flatten(0, 1) for group in groups])


def class_attention(query: Tensor, key_value: Tensor, num_heads: int) -> Tensor:
    """Attention of a few rows (a class token) over all: what a teacher's last block needs, and nothing more.

    query [B, M, D], key_value [B, N, 2*D] -> [B, M, D], equal to the first M rows of `attention`. By PyTorch's
    kernels, or by the reference where it is forced. ValueError where a shape does not fit.

    >>> class_attention(torch.zeros(2, 1, 8), torch.zeros(2, 5, 2 * 8), num_heads=2).shape
    torch.Size([2, 1, 8])
    """
    floating("query", query, "[B, M, D]")
    floating("key_value", key_value, "[B, N, 2*D]")
    _check_heads("query", query, num_heads, 1)
    batch, width = query.shape[0], query.shape[2]
    if key_value.shape[0] != batch or key_value.shape[2] != 2 * width:
        raise refusal("key_value", key_value, f"[{batch}, N, {2 * width}], for query's batch and width")
    beside("key_value", key_value, "query", query)
    if forced("attention") == "reference":
        return reference.class_attention(query, key_value, num_heads)
    rows, key, value = *reference.heads(query, 1, num_heads), *reference.heads(key_value, 2, num_heads)
    return reference.joined(backends.product(rows, key, value))


def _check(qkv: Tensor, num_heads: int, lengths: Lengths | None) -> None:
    floating("qkv", qkv, "[B, N, 3*D]" if lengths is None else "[T, 3*D]")
    _check_heads("qkv", qkv, num_heads, 3)
    if lengths is None:
        return
    if not lengths or any(count < 0 or length < 1 for count, length in lengths):
        raise refusal("lengths", lengths, "(count, length) of each group, a length at least 1")
    if sum(count * length for count, length in lengths) != qkv.shape[0]:
        raise refusal("lengths", lengths, f"groups of {qkv.shape[0]} tokens together, as qkv has")


def _check_heads(name: str, tensor: Tensor, num_heads: int, parts: int) -> None:
    if num_heads < 1:
        raise refusal("num_heads", num_heads, "at least 1")
    if tensor.shape[-1] % (parts * num_heads):
        raise refusal(name, tensor, f"as wide as {parts} * {num_heads} heads, or a multiple")
