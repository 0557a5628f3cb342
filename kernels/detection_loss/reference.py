"""What the detection loss means, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def detection_loss(tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """mean over b, k of BCE(sigmoid(tokens[b, k] . weight + bias), wrong[b, k]), and the accuracy

    >>> tokens, wrong = torch.tensor([[[3.0], [-3.0]]]), torch.tensor([[True, True]])
    >>> loss, accuracy = detection_loss(tokens, torch.ones(1), torch.zeros(()), wrong)
    >>> round(loss.item(), 4), accuracy.item()
    (1.5486, 0.5)
    """
    wide = torch.promote_types(tokens.dtype, torch.float32)
    logits = tokens.to(wide) @ weight.to(wide) + bias.to(wide)  # [B, K]
    loss = F.binary_cross_entropy_with_logits(logits, wrong.to(wide), reduction="sum")
    right = ((logits > 0) == wrong).sum()
    count = max(1, wrong.numel())
    return loss / count, right / count
