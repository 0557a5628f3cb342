"""The loss and its gradients some images, or some rows of one, at a time: logits of all pairs never exist."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .reference import RELATIONS, relation_labels

LOGITS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 25}  # 2 MB in fp32 stay in a processor's cache; a GPU has more to fill


def forward(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """query and key [B, 9, N, d], rows and cols [1 or B, N] -> mean loss, and the share of pairs told right"""
    count = max(1, len(query) * query.shape[2] ** 2)
    right = query.new_zeros((), dtype=torch.float32)
    loss = right.to(torch.promote_types(query.dtype, torch.float32), copy=True)
    order = torch.arange(RELATIONS, device=query.device).view(-1, 1, 1)
    for _, ours, others, label in _images(query, key, rows, cols):
        for some in _pieces(ours):
            logits, wanted = ours[:, :, some] @ others.mT, label[:, some].expand(len(ours), -1, -1)
            logits.sub_(logits.amax(1, keepdim=True))  # large logits cancel before the rest is added
            # The first of the largest: 0 less its number, where all others are at least as many less as there are.
            best = logits.sign().mul_(RELATIONS).sub_(order).amax(1)
            right += best.eq_(-wanted).sum(dtype=torch.float32)
            loss -= logits.gather(1, wanted[:, None]).sum() * (1 - smoothing)
            if smoothing:
                loss -= logits.sum() * (smoothing / RELATIONS)
            loss += logits.exp_().sum(1).log_().sum()
    return loss / count, right / count


def backward(
    grad: Tensor, query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float, to: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of query and key [B, 9, N, d], either empty unless `to` it is asked for."""
    factor = grad / max(1, len(query) * query.shape[2] ** 2)
    query_grad, key_grad = (x.new_empty(x.shape if asked else 0) for x, asked in zip((query, key), to, strict=True))
    for which, ours, others, label in _images(query, key, rows, cols):
        total = torch.zeros_like(others) if to[1] else others
        for some in _pieces(ours):
            error, wanted = (ours[:, :, some] @ others.mT).softmax(1), label[:, None, some]
            hit = error.new_full((), smoothing - 1).expand(len(error), 1, *wanted.shape[2:])
            error.scatter_add_(1, wanted.expand_as(hit), hit)
            if smoothing:
                error.sub_(smoothing / RELATIONS)
            if to[0]:
                query_grad[which, :, some] = (error @ others).mul_(factor / math.sqrt(query.shape[3]))
            if to[1]:
                total += error.mT @ ours[:, :, some]
        if to[1]:
            key_grad[which] = total.mul_(factor)
    return query_grad, key_grad


def _images(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Some images: queries over sqrt(d) and keys [some, 9, N, d] in fp32 or fp64, labels [1 or some, N, N]."""
    wide = torch.promote_types(query.dtype, torch.float32)
    alike = relation_labels(rows, cols) if len(rows) == 1 else None
    size = max(1, _most(query) // max(1, RELATIONS * query.shape[2] ** 2))
    for start in range(0, len(query), size):
        which = slice(start, start + size)
        label = relation_labels(rows[which], cols[which]) if alike is None else alike
        yield which, query[which].to(wide) / math.sqrt(query.shape[3]), key[which].to(wide), label


def _pieces(query: Tensor) -> Iterator[slice]:
    """Of the rows of some images: all, unless those of one image are too many."""
    length = query.shape[2]
    size = max(1, _most(query) // max(1, RELATIONS * length * len(query)))
    for start in range(0, length, size):
        yield slice(start, start + size)


def _most(tensor: Tensor) -> int:
    return LOGITS_AT_ONCE["cpu" if tensor.device.type == "cpu" else "cuda"]
