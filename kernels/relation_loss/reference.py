"""What the loss over relations of patches means, in plain PyTorch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RELATIONS = 9


def relation_labels(rows: Tensor, cols: Tensor) -> Tensor:
    """label[p, q] = 3 (1 + sgn(r_p - r_q)) + 1 + sgn(c_p - c_q): the place of p seen from q; [.., N] -> [.., N, N]

    From 0, above on the left, through 4, the same patch, to 8, below on the right.

    >>> relation_labels(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])).tolist()  # of three corners of 2 by 2
    [[4, 3, 1], [5, 4, 2], [7, 6, 4]]
    """
    down, right = (torch.sign(x.unsqueeze(-1) - x.unsqueeze(-2)) for x in (rows, cols))
    return 3 * (1 + down) + 1 + right


def relation_loss(
    query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The cross entropy of query[b, :, p] . key[b, :, q] / sqrt(d) and the label, and how often the largest is right

    query and key [B, 9, N, d], rows and cols [N] or [B, N]; means over all pairs, in fp32.

    >>> zero, place = torch.zeros(1, 9, 4, 2), torch.tensor([0, 0, 1, 1])
    >>> [round(x.item(), 4) for x in relation_loss(zero, zero, place, place)]  # ln 9; equal logits mean class 0
    [2.1972, 0.25]
    """
    wide = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
    logits = query.to(wide) @ key.to(wide).mT / math.sqrt(query.shape[3])
    label = relation_labels(rows, cols).expand(len(query), -1, -1)
    count = max(1, label.numel())
    loss = F.cross_entropy(logits, label, reduction="sum", label_smoothing=smoothing) / count
    return loss, (logits.argmax(1) == label).sum(dtype=torch.float32) / count
