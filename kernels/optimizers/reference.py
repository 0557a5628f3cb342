"""The meaning of `adamw_ema_` and `lars_ema_`, tensor by tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor, h: Tensor) -> None:
    """One tensor's update; h is its row of numbers."""
    lr, decay, weight1, weight2, eps, correction1, correction2, scale = h[:8].to(p.dtype).unbind()
    g = g * scale
    m.add_(weight1 * (g - m))
    v.add_(weight2 * (g * g - v))
    p.mul_(1 - lr * decay).sub_(lr / correction1 * (m / (v.sqrt() / correction2.sqrt() + eps)))


def lars(p: Tensor, g: Tensor, m: Tensor, h: Tensor) -> None:
    """One tensor's update; vectors neither decay nor adapt."""
    lr, decay, momentum, trust, scale = h[:5].to(p.dtype).unbind()
    g = g * scale
    if p.ndim > 1:
        g = g + decay * p
        ours, theirs = p.norm(), g.norm()
        g = g * torch.where((ours > 0) & (theirs > 0), trust * ours / theirs, torch.ones_like(ours))
    m.mul_(momentum).add_(g)
    p.sub_(lr * m)


def follow(
    p: Tensor, index: int, pull: Tensor, teachers: Sequence[Tensor], copies: Sequence[Tensor], theirs: Sequence[Tensor]
) -> None:
    """The teacher's step towards p, and what is kept of both in fewer bits."""
    if teachers:
        teachers[index].add_(pull.to(p.dtype) * (p - teachers[index]))
    if copies:
        copies[index].copy_(p)
    if theirs:
        theirs[index].copy_(teachers[index])
