"""PyTorch: some rows of similarities at a time, computed again in the backward pass instead of kept."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_AT_ONCE = 1 << 22  # 16 MB in fp32: the rows of a chunk are as many as fit
NONE = -1
LOG2_E = 1.4426950408889634
SHORTEST = 1e-12  # what F.normalize takes for the length of shorter rows


def forward(
    query: Tensor, key: Tensor, temperature: float, positive: int, without: int, normalize: bool, ready: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the losses of the rows and the log-sum-exp of all but their positive keys [N], and the derivative of each
    loss by its query [N, D], empty unless it is to be ready"""
    raw, query, key = query, _rows(query, normalize), _rows(key, normalize)
    lse, own = query.new_empty(2, len(query)).unbind()
    value = query.new_empty(query.shape if ready else (0,))
    for rows, logits in _chunks(query, key, temperature):
        if positive != NONE:
            own[rows] = logits.diagonal(positive + rows.start)
        for diagonal in (positive, without):
            if diagonal != NONE:
                logits.diagonal(diagonal + rows.start).fill_(-torch.inf)
        peak = logits.amax(1).clamp_(min=torch.finfo(logits.dtype).min)  # some row may be left without a key
        weight = logits.sub_(peak[:, None]).exp_()
        total = weight.sum(1)
        lse[rows] = total.log() + peak
        if ready:
            torch.mm(weight, key, out=value[rows])
            value[rows] /= total.clamp_(min=torch.finfo(total.dtype).tiny)[:, None]
    gap, lse = lse - own, lse.clone()
    loss = lse.clone() if positive == NONE else -F.logsigmoid(-gap)
    if ready:
        if positive != NONE:
            value.sub_(key[positive : positive + len(query)]).mul_(gap.sigmoid()[:, None])
        value = _to_raw(value.div_(temperature), query, raw, normalize)
    return loss, lse, value


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    loss: Tensor,
    lse: Tensor,
    settings: tuple[float, int, int, bool],
    to_key: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of query [N, D] and key [M, D], the latter empty unless asked for; settings are those of forward."""
    temperature, positive, without, normalize = settings
    raw_query, raw_key = query, key
    query, key = _rows(query, normalize), _rows(key, normalize)
    weight = upstream(grad, loss, positive)[:, None] / temperature
    query_grad, key_grad = torch.empty_like(query), key.new_zeros(key.shape if to_key else (0,))
    for rows, logits in _chunks(query, key, temperature):
        share = logits.sub_(lse[rows, None]).exp_()
        for diagonal, instead in ((positive, -1), (without, 0)):
            if diagonal != NONE:
                share.diagonal(diagonal + rows.start).fill_(instead)
        torch.mm(share, key, out=query_grad[rows])
        if to_key:
            key_grad.addmm_(share.T, query[rows] * weight[rows])
    query_grad = _to_raw(query_grad.mul_(weight), query, raw_query, normalize)
    key_grad = _to_raw(key_grad, key, raw_key, normalize) if to_key else key_grad
    return query_grad.to(raw_query.dtype), key_grad.to(raw_key.dtype)


def upstream(grad: Tensor, loss: Tensor, positive: int) -> Tensor:
    """The gradient of the log-sum-exp of the other keys: loss = log(1 + exp(lse - logit of the positive))"""
    return grad if positive == NONE else grad * -torch.expm1(-loss)


def _chunks(query: Tensor, key: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the query, and their logits [rows, M]."""
    size = max(1, LOGITS_AT_ONCE // max(1, len(key)))
    for start in range(0, len(query), size):
        rows = slice(start, min(start + size, len(query)))
        yield rows, (query[rows] / temperature) @ key.T


def _rows(raw: Tensor, normalize: bool) -> Tensor:
    wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
    return F.normalize(wide, dim=1, eps=SHORTEST) if normalize else wide


def _to_raw(grad: Tensor, unit: Tensor, raw: Tensor, normalize: bool) -> Tensor:
    """The gradient of rows before they were brought to unit length, from that after."""
    if not normalize:
        return grad
    length = torch.linalg.vector_norm(raw, dim=1, keepdim=True, dtype=unit.dtype).clamp_(min=SHORTEST)
    along = (grad * unit).sum(1, keepdim=True)
    return grad.addcmul(unit, along, value=-1).div_(length)
