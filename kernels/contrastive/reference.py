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
