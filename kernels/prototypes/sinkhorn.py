"""`sinkhorn_center`: Sinkhorn-Knopp, told as the center that it amounts to."""

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose
from .._shared.registration import operator
from . import reference
from .softmax import Softmax, chunks
from .temperature import Temperature, scalar


@operator("sinkhorn_center")
def _center(teacher: Tensor, weight: Tensor | None, temperature: Tensor, iterations: int) -> Tensor:
    """teacher [N, d], or [N, K] without a weight -> [K], in the type of the temperature; one pass an iteration"""
    features = teacher.to(temperature.dtype) / temperature
    rows = features.new_zeros(len(features), 1)  # log of the factor of each row
    columns = features.new_empty(features.shape[1] if weight is None else len(weight))
    for left in reversed(range(iterations)):
        sums = Softmax(rows)
        for some in chunks(len(columns), len(features)):
            logits = features[:, some] if weight is None else features @ weight[some].to(features.dtype).T
            columns[some] = -(logits + rows).logsumexp(0)
            if left:
                sums.add(logits + columns[some])
        rows = -sums.lse()
    return columns.mul_(-temperature)


@_center.register_fake
def _(teacher: Tensor, weight: Tensor | None, temperature: Tensor, iterations: int) -> Tensor:
    return temperature.new_empty(teacher.shape[1] if weight is None else weight.shape[0])


def sinkhorn_center(teacher: Tensor, weight: Tensor | None, temperature: Temperature, iterations: int = 3) -> Tensor:
    """softmax_k((T[n, k] - center[k]) / temperature) = n-th row of Sinkhorn-Knopp's assignment of exp(T / temperature)

    T = teacher @ weight.T: teacher [N, d] has features of the teacher, weight [K, d] its prototypes, both of any
    floating types; where weight is None, teacher is T itself. An iteration gives every prototype the same share
    of all rows, then every row the same share of all prototypes; the last half step is the softmax. Returned
    [K] in fp32 (fp64 where an argument is), without a gradient, computed in fp32 under autocast too: -temperature
    times the logarithm of what multiplies a prototype's column, so any constant added to it changes nothing. No
    N x K array is ever whole. Over ranks: hand in the features of all of them, which are few beside prototypes.
    ValueError where a shape or type does not fit, or a number is not positive.

    Cuturi, arXiv:1306.0895; as used by SwAV, arXiv:2006.09882, and DINOv2, arXiv:2304.07193.

    >>> T = torch.tensor([[3.0, 0.0], [2.0, 0.0]])  # both rows prefer the first prototype
    >>> ((T - sinkhorn_center(T, None, 1.0, iterations=50)).softmax(1)).sum(0).round(decimals=3).tolist()
    [1.0, 1.0]
    """
    _check(teacher, weight, iterations)
    wide = reference.widest(teacher, weight)
    divisor = scalar("temperature", temperature, teacher, wide)
    if choose("prototypes", "sinkhorn_center is PyTorch's", expected=False) == "reference":
        with torch.autocast(teacher.device.type, enabled=False):
            return reference.sinkhorn_center(teacher, weight, divisor, iterations)
    return _center(teacher.detach(), None if weight is None else weight.detach(), divisor, iterations)


def _check(teacher: Tensor, weight: Tensor | None, iterations: int) -> None:
    floating("teacher", teacher, "[N, d]")
    if 0 in teacher.shape:
        raise refusal("teacher", teacher, "[N, d] with a row and a column or more")
    if weight is not None:
        floating("weight", weight, "[K, d]")
        beside("weight", weight, "teacher", teacher)
        if weight.shape[0] == 0 or weight.shape[1] != teacher.shape[1]:
            raise refusal("weight", weight, f"[K, {teacher.shape[1]}] with K from 1")
    if iterations < 1:
        raise refusal("iterations", iterations, "1 or more")
