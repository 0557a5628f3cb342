"""`relation_loss`: schema, shapes, gradients and the choice between Triton and PyTorch."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.registration import operator
from . import chunks, reference
from .reference import RELATIONS


@operator("relation_loss")
def _forward(
    query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float, implementation: str
) -> tuple[Tensor, Tensor]:
    """query and key [B, 9, N, d] of one type, rows and cols [1 or B, N] -> mean loss, accuracy"""
    if implementation == "triton":
        from . import kernel

        return kernel.forward(query, key, rows, cols, smoothing)
    return chunks.forward(query, key, rows, cols, smoothing)


@_forward.register_fake
def _(
    query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float, implementation: str
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty((), dtype=wide), query.new_empty((), dtype=torch.float32)


@operator("relation_loss_backward")
def _gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    cols: Tensor,
    smoothing: float,
    to_query: bool,
    to_key: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of query and key [B, 9, N, d], either empty unless asked for."""
    if implementation == "triton":
        from . import kernel

        return kernel.backward(grad, query, key, rows, cols, smoothing, (to_query, to_key))
    return chunks.backward(grad, query, key, rows, cols, smoothing, (to_query, to_key))


@_gradients.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    cols: Tensor,
    smoothing: float,
    to_query: bool,
    to_key: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape if to_query else 0), key.new_empty(key.shape if to_key else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.smoothing, ctx.implementation = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    asked = ctx.needs_input_grad[:2]
    grads = _gradients(grad, *ctx.saved_tensors, ctx.smoothing, *asked, ctx.implementation)
    to_query, to_key = (g if wanted else None for g, wanted in zip(grads, asked, strict=True))
    return to_query, to_key, None, None, None, None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtype: torch.dtype, width: int, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot run for queries and keys of this type and width, or None."""
    if unavailable:
        return unavailable
    if dtype == torch.float64:
        return "the kernel adds in fp32, and an argument is float64"
    return f"the kernel takes heads up to 128 wide, not {width}" if width > 128 else None


def relation_loss(
    query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """loss = mean over b, p, q of -log softmax_h(query[b, h, p] . key[b, h, q] / sqrt(d)) at h = label[b, p, q]

    with label[b, p, q] = 3 (1 + sgn(r_p - r_q)) + 1 + sgn(c_p - c_q), the place of patch p seen from patch q in
    nine classes: 0 above on the left, 1 above, .., 4 the same place, .., 8 below on the right. query and key
    [B, 9, N, d] of any floating types, a head for each class; rows and cols, int64 [N] or for each image [B, N],
    are where on the grid the patches come from, also where they were shuffled. With smoothing s from 0 to 1
    the target is 1 - s of the label and s / 9 of every class.

    Returns the loss in nats, an fp32 scalar (fp64 where query or key is), and the accuracy, the share of pairs
    whose largest logit is the label's (the lowest class among equals), fp32 and without gradient. Sums are in
    fp32, under autocast too. No [B, 9, N, N] and no [B, N, N] exists at any time, or is kept: the backward pass
    computes logits again. No images: loss 0. ValueError where a shape, type or number does not fit.

    RelViT: Camporese et al., arXiv:2206.00481.

    >>> zero = torch.zeros(1, 9, 4, 2)
    >>> loss, accuracy = relation_loss(zero, zero, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    >>> round(loss.item(), 4)  # ln 9
    2.1972
    """
    _check(query, key, rows, cols, smoothing)
    kind = torch.promote_types(query.dtype, key.dtype)
    found = obstacle(kind, query.shape[3], triton_obstacle(query.device.type))
    implementation = choose("relation_loss", found, expected=query.device.type == "cuda")
    if implementation == "reference":
        with torch.autocast(query.device.type, enabled=False):
            return reference.relation_loss(query, key, rows, cols, smoothing)
    rows, cols = (x if x.dim() == 2 else x[None] for x in (rows, cols))
    out: tuple[Tensor, Tensor] = _forward(query.to(kind), key.to(kind), rows, cols, float(smoothing), implementation)
    return out


def _check(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float) -> None:
    floating("query", query, "[B, 9, N, d]")
    batch, heads, length, width = query.shape
    if heads != RELATIONS or width == 0:
        raise refusal("query", query, "[B, 9, N, d], a head for each of nine relations")
    if key.shape != query.shape or not key.dtype.is_floating_point:
        raise refusal("key", key, f"a floating point tensor {list(query.shape)}, as query is")
    beside("key", key, "query", query)
    for name, places in (("rows", rows), ("cols", cols)):
        if places.dtype != torch.int64 or places.shape not in ((length,), (batch, length)):
            raise refusal(name, places, f"int64 [{length}] or [{batch}, {length}]")
        beside(name, places, "query", query)
    if rows.shape != cols.shape:
        raise refusal("cols", cols, f"of the shape of rows, {list(rows.shape)}")
    if not 0 <= smoothing <= 1:
        raise refusal("smoothing", smoothing, "from 0 to 1")
