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
