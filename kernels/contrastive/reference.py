"""What the contrastive losses mean, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, key: Tensor, temperature: float, offset: int = 0, normalize: bool = True) -> Tensor:
    """loss[i] = -log softmax_j(query[i] . key[j] / temperature) at j = i + offset, in fp32

    >>> [round(loss, 4) for loss in info_nce(torch.eye(2), torch.eye(2), temperature=1.0).tolist()]
    [0.3133, 0.3133]
    """
    query, key = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, key))
    if normalize:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    positive = torch.arange(len(query), device=query.device) + offset
    return F.cross_entropy(query @ key.T / temperature, positive, reduction="none")


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float,
    all_first: Tensor | None = None,
    all_second: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """mean over anchors of -log softmax over all other rows of both views, at the other view of the image, in fp32

    >>> round(nt_xent(torch.eye(2), torch.eye(2), temperature=1.0).item(), 4)
    0.5514
    """
    if all_first is None or all_second is None:
        all_first, all_second = first, second
    anchors, keys = torch.cat([first, second]), torch.cat([all_first, all_second])
    anchors, keys = (F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1) for x in (anchors, keys))
    wide = torch.promote_types(anchors.dtype, keys.dtype)
    own = offset + torch.arange(len(first), device=first.device)
    itself, positive = torch.cat([own, own + len(all_first)]), torch.cat([own + len(all_first), own])
    logits = (anchors.to(wide) @ keys.to(wide).T / temperature).scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(logits, positive, reduction="sum") / max(1, len(anchors))


def sup_con(
    features: Tensor,
    labels: Tensor,
    temperature: float,
    base_temperature: float | None = None,
    all_features: Tensor | None = None,
    all_labels: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """mean over anchors with positives of -1/|P| sum_{p in P} log softmax over all other views, in fp32

    >>> same = torch.ones(4, 2, 3)
    >>> round(sup_con(same, torch.tensor([0, 0, 1, 1]), temperature=0.1).item(), 4)
    1.9459
    """
    if all_features is None or all_labels is None:
        all_features, all_labels = features, labels
    views, wide = features.shape[1], torch.promote_types(features.dtype, all_features.dtype)
    wide = torch.promote_types(wide, torch.float32)
    anchors, keys = (F.normalize(x.to(wide), dim=2).flatten(0, 1) for x in (features, all_features))
    classes = all_labels.repeat_interleave(views)
    own = offset * views + torch.arange(len(anchors), device=features.device)
    itself = torch.arange(len(keys), device=features.device) == own[:, None]
    positive = (labels.repeat_interleave(views)[:, None] == classes) & ~itself
    logits = anchors @ keys.T / temperature
    others = logits.masked_fill(itself, torch.finfo(wide).min)
    shares = torch.where(positive, logits - others.logsumexp(1, keepdim=True), 0.0)
    losses = -shares.sum(1) / positive.sum(1).clamp(min=1)
    counted = ((all_labels[:, None] == all_labels).sum(1) * views > 1).sum().to(wide)
    share = views * len(labels) / max(1, len(all_labels))
    return losses.sum() / (counted * share).clamp(min=1e-30) * (temperature / (base_temperature or temperature))


def n_pair(anchor: Tensor, positive: Tensor, l2: float = 0.0) -> Tensor:
    """mean_i cross entropy of a_i . p_j over j at j = i, plus l2 times the mean of |a_i|^2 + |p_i|^2, in fp32

    >>> round(n_pair(torch.ones(10, 4), torch.ones(10, 4)).item(), 4)
    2.3026
    """
    wide = torch.promote_types(torch.promote_types(anchor.dtype, positive.dtype), torch.float32)
    anchor, positive = anchor.to(wide), positive.to(wide)
    own = torch.arange(len(anchor), device=anchor.device)
    loss = F.cross_entropy(anchor @ positive.T, own, reduction="sum")
    return (loss + l2 * (anchor.square().sum() + positive.square().sum())) / max(1, len(anchor))
