"""`n_pair`: an anchor and a positive of each class, whose negatives are the positives of all others."""

import math

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from . import reference
from .op import common_dtype, implementation, row_losses


def n_pair(anchor: Tensor, positive: Tensor, l2: float = 0.0) -> Tensor:
    """loss = mean_i log(1 + sum_{j != i} exp(a_i . p_j - a_i . p_i)) + l2 * mean_i(|a_i|^2 + |p_i|^2)

    anchor and positive [C, D] of any floating types, one of each of C classes, as they are: neither brought to
    unit length nor divided by a temperature. The result is an fp32 scalar (fp64 where an argument is), computed
    in fp32, under autocast too, by a log-sum-exp that does not overflow and keeps no C x C array. C = 0 costs 0.
    ValueError where shapes do not fit or l2 is negative.

    Sohn, NeurIPS 2016.

    >>> round(n_pair(torch.ones(10, 4), torch.ones(10, 4)).item(), 4)  # the logarithm of the number of classes
    2.3026
    """
    _check(anchor, positive, l2)
    with torch.autocast(anchor.device.type, enabled=False):
        if implementation(anchor, positive) == "reference":
            return reference.n_pair(anchor, positive, l2)
        loss = row_losses(anchor, positive, 1.0, positive=0, normalize=False).sum()
        if l2:
            wide = torch.promote_types(common_dtype(anchor, positive), torch.float32)
            loss = loss + l2 * (anchor.to(wide).square().sum() + positive.to(wide).square().sum())
        return loss / max(1, len(anchor))


def _check(anchor: Tensor, positive: Tensor, l2: float) -> None:
    floating("anchor", anchor, "[C, D]")
    floating("positive", positive, "[C, D]")
    beside("positive", positive, "anchor", anchor)
    if positive.shape != anchor.shape:
        raise refusal("positive", positive, f"of the shape of anchor, {list(anchor.shape)}")
    if not 0 <= l2 < math.inf:
        raise refusal("l2", l2, "a number from 0")
