"""`sup_con`: every view against all views of images with its label, by the log-sum-exp that all these losses share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.rows import sum_rows
from . import reference
from .op import check_temperature, common_dtype, implementation, row_losses


def sup_con(
    features: Tensor,
    labels: Tensor,
    temperature: float,
    base_temperature: float | None = None,
    all_features: Tensor | None = None,
    all_labels: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """loss = t / t0 * mean over anchors i of -mean_p log(exp(f_i . f_p / t) / sum_{a != i} exp(f_i . f_a / t))

    t is the temperature, t0 base_temperature. features [N, V, D] of any floating type: V views of N images, whose
    rows are brought to unit length; labels int64 [N]. p runs over the other views with the label of i. An anchor
    that has none counts nothing, and the mean is over the others; where there are no others the loss is 0. In
    nats, an fp32 scalar (fp64 where an argument is); no base_temperature: no factor. Labels that all differ give
    NT-Xent. Computed in fp32, under autocast too:
    the positives enter by the sum of each class, sum_p f_i . f_p = f_i . (C_y - f_i), so that there is neither a
    matrix of labels nor one of logits.

    Over ranks: all_features [M, V, D] and all_labels [M] are those of all ranks, the former gathered so that
    gradients flow back, and offset is where this rank's images lie among them, rank * N. The anchors are those of
    this rank; the mean of the losses of ranks with N images each is the loss of the joined batch. ValueError
    where shapes or types do not fit, images would lie outside of the gathered, or a temperature is not positive.

    Khosla et al., arXiv:2004.11362, equation 2.

    >>> same = torch.ones(4, 2, 3)
    >>> round(sup_con(same, torch.tensor([0, 0, 1, 1]), temperature=0.1).item(), 4)  # the logarithm of the 7 others
    1.9459
    """
    _check(features, labels, temperature, base_temperature)
    _check_gathered(features, all_features, all_labels, offset)
    if all_features is None or all_labels is None:
        all_features, all_labels = features, labels
    with torch.autocast(features.device.type, enabled=False):
        if implementation(features, all_features) == "reference":
            return reference.sup_con(features, labels, temperature, base_temperature, all_features, all_labels, offset)
        return _sup_con(features, temperature, base_temperature, all_features, all_labels, offset)


def _sup_con(
    features: Tensor,
    temperature: float,
    base_temperature: float | None,
    all_features: Tensor,
    all_labels: Tensor,
    offset: int,
) -> Tensor:
    count, views, _ = features.shape
    mine = slice(offset, offset + count)
    anchors, sums, members = _classes(features, all_features, all_labels)
    others = members * views - 1
    towards = (sums[mine, None] * anchors).sum(2) - anchors.square().sum(2)
    rows, keys = features.flatten(0, 1), all_features.flatten(0, 1)
    lse = row_losses(rows, keys, temperature, without=offset * views).view(count, views)
    losses = lse - towards / others[mine, None].clamp(min=1) / temperature
    losses = torch.where(others[mine, None] > 0, losses, 0.0)
    # Of all ranks' anchors, those that count, and this rank's share of them if they were spread evenly.
    counted = (others > 0).sum().to(lse.dtype) * (views * count / max(1, len(all_labels)))
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return losses.sum() / counted.clamp(min=1e-30) * factor


def _classes(features: Tensor, all_features: Tensor, all_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's rows of unit length, and for each image of all ranks the sum and the number of its class."""
    wide = torch.promote_types(common_dtype(features, all_features), torch.float32)
    anchors = F.normalize(features.to(wide), dim=2)
    everyone = anchors if all_features is features else F.normalize(all_features.to(wide), dim=2)
    index = _class_index(all_labels)
    sums = sum_rows(everyone.sum(1), index, len(index))
    members = torch.zeros_like(index).scatter_add_(0, index, torch.ones_like(index))
    return anchors, sums[index], members[index]


def _class_index(labels: Tensor) -> Tensor:
    """Labels by number of appearance in order, below the number of labels: nothing waits for how many there are.

    >>> _class_index(torch.tensor([7, -3, 7, 100])).tolist()
    [1, 0, 1, 2]
    """
    ordered, order = labels.sort()
    new = torch.cat([ordered.new_zeros(min(1, len(labels))), (ordered[1:] != ordered[:-1]).long()])
    return torch.empty_like(labels).scatter_(0, order, new.cumsum(0))


def _check(features: Tensor, labels: Tensor, temperature: float, base_temperature: float | None) -> None:
    floating("features", features, "[N, V, D]")
    _check_labels("labels", labels, len(features), "features")
    beside("labels", labels, "features", features)
    check_temperature("temperature", temperature)
    if base_temperature is not None:
        check_temperature("base_temperature", base_temperature)


def _check_labels(name: str, labels: Tensor, count: int, of: str) -> None:
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise refusal(name, labels, f"int64 [{count}], as {of} has images")


def _check_gathered(features: Tensor, everyone: Tensor | None, labels: Tensor | None, offset: int) -> None:
    if (everyone is None) != (labels is None):
        name = "all_features" if everyone is None else "all_labels"
        raise refusal(name, None, "given where the other is: features and labels of all ranks, or neither")
    count = features.shape[0]
    if everyone is not None and labels is not None:
        floating("all_features", everyone, "[M, V, D]")
        beside("all_features", everyone, "features", features)
        if everyone.shape[1:] != features.shape[1:]:
            raise refusal("all_features", everyone, f"[M, {features.shape[1]}, {features.shape[2]}], as features is")
        count = everyone.shape[0]
        _check_labels("all_labels", labels, count, "all_features")
        beside("all_labels", labels, "features", features)
    if offset < 0 or offset + features.shape[0] > count:
        raise refusal("offset", offset, f"such that this rank's images, {features.shape[0]}, lie in {count}")
