"""`info_nce`, and the operator behind both losses: rows of a softmax over similarities, their logits never kept."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose
from .._shared.registration import operator
from . import reference

LOGITS_AT_ONCE = 1 << 22  # 16 MB in fp32: the rows of a chunk are as many as fit
NONE = -1


@operator("info_nce")
def row_losses(
    query: Tensor, key: Tensor, temperature: float, offset: int, without: int = NONE
) -> tuple[Tensor, Tensor]:
    """query [N, D], key [M, D] -> loss and log-sum-exp of the rows, [N] each; row i knows no key i + without"""
    loss, lse = query.new_empty(2, len(query)).unbind()
    for rows, logits in _chunks(query, key, temperature, without):
        lse[rows] = logits.logsumexp(1)
        loss[rows] = lse[rows] - logits.diagonal(offset + rows.start)
    return loss.clone(), lse.clone()


@row_losses.register_fake
def _(query: Tensor, key: Tensor, temperature: float, offset: int, without: int = NONE) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape[0]), query.new_empty(query.shape[0])


@operator("info_nce_backward")
def _gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    lse: Tensor,
    temperature: float,
    offset: int,
    to_key: bool,
    without: int = NONE,
) -> tuple[Tensor, Tensor]:
    """Gradients of query [N, D] and key [M, D], the latter empty unless asked for."""
    query_grad, key_grad = torch.empty_like(query), key.new_zeros(key.shape if to_key else (0,))
    for rows, logits in _chunks(query, key, temperature, without):
        share = logits.sub_(lse[rows, None]).exp_()
        share.diagonal(offset + rows.start).sub_(1)
        share.mul_(grad[rows, None] / temperature)
        torch.mm(share, key, out=query_grad[rows])
        if to_key:
            key_grad.addmm_(share.T, query[rows])
    return query_grad, key_grad


@_gradients.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    lse: Tensor,
    temperature: float,
    offset: int,
    to_key: bool,
    without: int = NONE,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape if to_key else (0,))


def _chunks(query: Tensor, key: Tensor, temperature: float, without: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the query, and their logits [rows, M]."""
    size = max(1, LOGITS_AT_ONCE // max(1, len(key)))
    for start in range(0, len(query), size):
        rows = slice(start, min(start + size, len(query)))
        logits = (query[rows] @ key.T).div_(temperature)
        if without != NONE:
            logits.diagonal(without + start).fill_(-torch.inf)
        yield rows, logits


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, ctx.temperature, ctx.offset, ctx.without = inputs
    ctx.save_for_backward(query, key, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, lse = ctx.saved_tensors
    to_key = ctx.needs_input_grad[1]
    query_grad, key_grad = _gradients(grad, query, key, lse, ctx.temperature, ctx.offset, to_key, ctx.without)
    return query_grad, key_grad if to_key else None, None, None, None


row_losses.register_autograd(_backward, setup_context=_save)


def info_nce(query: Tensor, key: Tensor, temperature: float, offset: int = 0, normalize: bool = True) -> Tensor:
    """loss[i] = -log softmax_j(query[i] . key[j] / temperature) at j = i + offset

    query [N, D] and key [M, D] of any floating types, brought to unit length unless `normalize` is off; the
    loss of each row is fp32 [N] (fp64 where an argument is), in nats and without MoCo v3's factor of 2 *
    temperature. All is computed in fp32, under autocast too; no N x M array is kept for the backward pass,
    and the gradient of keys is not computed where none is needed. With keys gathered from all ranks, offset
    is the rank times N. A temperature that is learnt goes into the query: normalize, multiply, and call with
    temperature 1 and normalize=False. N may be 0. ValueError where shapes do not fit, a positive would lie
    outside of the keys, or the temperature is not positive.

    van den Oord et al., arXiv:1807.03748.

    >>> [round(loss, 4) for loss in info_nce(torch.eye(2), torch.eye(2), temperature=1.0).tolist()]
    [0.3133, 0.3133]
    """
    _check(query, key, temperature, offset)
    if choose("contrastive", "it has no Triton kernel", expected=False) == "reference":
        with torch.autocast(query.device.type, enabled=False):
            return reference.info_nce(query, key, temperature, offset, normalize)
    wide = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    query, key = query.to(wide), key.to(wide)
    if normalize:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    return row_losses(query, key, float(temperature), offset)[0]


def _check(query: Tensor, key: Tensor, temperature: float, offset: int) -> None:
    floating("query", query, "[N, D]")
    floating("key", key, "[M, D]")
    beside("key", key, "query", query)
    if key.shape[1] != query.shape[1]:
        raise refusal("key", key, f"as wide as query, [M, {query.shape[1]}]")
    if not temperature > 0:
        raise refusal("temperature", temperature, "greater than 0")
    if offset < 0 or offset + query.shape[0] > key.shape[0]:
        raise refusal("offset", offset, f"such that the positives, {query.shape[0]} keys, lie in {key.shape[0]}")
