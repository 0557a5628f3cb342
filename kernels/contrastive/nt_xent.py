"""`nt_xent`: every view of every image against all other views of all images, by the operator of `info_nce`."""

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from . import reference
from .op import check_temperature, implementation, row_losses


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float,
    all_first: Tensor | None = None,
    all_second: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """loss = mean over 2N anchors a of -log exp(a . p / temperature) / sum_{k != a} exp(a . k / temperature)

    first and second [N, D] of any floating types: two views, whose rows are brought to unit length; p is the
    other view of the anchor's image, k every view of every image but the anchor itself. In nats, an fp32 scalar
    (fp64 where an argument is), half of what SimCLR's official code reports. Computed in fp32, under autocast
    too; no 2N x 2N array is kept for the backward pass or ever whole. N = 0 costs 0.

    Over ranks: all_first and all_second [M, D] are the views of all ranks, gathered so that gradients flow back,
    and offset is where this rank's rows lie among them, rank * N. The anchors are those of this rank; the mean
    of the losses of all ranks is the loss of the joined batch. ValueError where shapes do not fit, rows would
    lie outside of the gathered, or the temperature is not positive.

    Chen et al., arXiv:2002.05709; Sohn, NeurIPS 2016.

    >>> round(nt_xent(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)
    0.5514
    """
    _check(first, second, temperature)
    _check_gathered(first, all_first, all_second, offset)
    everyone = (first, second) if all_first is None or all_second is None else (all_first, all_second)
    with torch.autocast(first.device.type, enabled=False):
        if implementation(first, second, *everyone) == "reference":
            return reference.nt_xent(first, second, temperature, *everyone, offset)
        keys = torch.cat(everyone)
        other = len(keys) // 2 + offset
        losses = (
            row_losses(first, keys, temperature, positive=other, without=offset),
            row_losses(second, keys, temperature, positive=offset, without=other),
        )
        return (losses[0].sum() + losses[1].sum()) / max(1, 2 * len(first))


def _check(first: Tensor, second: Tensor, temperature: float) -> None:
    floating("first", first, "[N, D]")
    floating("second", second, "[N, D]")
    beside("second", second, "first", first)
    if second.shape != first.shape:
        raise refusal("second", second, f"of the shape of first, {list(first.shape)}")
    check_temperature("temperature", temperature)


def _check_gathered(first: Tensor, all_first: Tensor | None, all_second: Tensor | None, offset: int) -> None:
    if (all_first is None) != (all_second is None):
        name = "all_first" if all_first is None else "all_second"
        raise refusal(name, None, "given where the other is: both views of all ranks, or neither")
    rows = first.shape[0] if all_first is None else all_first.shape[0]
    for name, gathered in (("all_first", all_first), ("all_second", all_second)):
        if gathered is None:
            continue
        floating(name, gathered, "[M, D]")
        beside(name, gathered, "first", first)
        if gathered.shape != (rows, first.shape[1]):
            raise refusal(name, gathered, f"[{rows}, {first.shape[1]}], as all_first has rows and first has columns")
    if offset < 0 or offset + first.shape[0] > rows:
        raise refusal("offset", offset, f"such that this rank's rows, {first.shape[0]}, lie in {rows}")
