"""What drawing tokens means, in plain PyTorch."""

import torch
from torch import Tensor

from .._shared.philox import ORDER, WRONG, bits, fraction

Plan = tuple[Tensor, Tensor, Tensor, Tensor]


def sample_tokens(seed: Tensor, sample_ids: Tensor, num_patches: int, keep: int, wrong_probability: float) -> Plan:
    """Order the patches by (24 random bits, index); keep the first, tell some of them the place of the last.

    >>> plan = sample_tokens(torch.tensor([0, 0]), torch.tensor([5]), 4, 2, 1.0)
    >>> [part.tolist() for part in plan]
    [[[3, 1]], [[2, 0]], [[True, True]], [[3, 1, 2, 0]]]
    """
    index = torch.arange(num_patches, device=sample_ids.device)
    drawn, chance = bits(seed, sample_ids, (num_patches, ORDER), (keep, WRONG))
    keys = (drawn << 32) | index  # distinct, so every sort agrees
    order = keys.sort(1).values & 0xFFFFFFFF  # [B, P]
    kept = order[:, :keep]
    donors = order[:, num_patches - keep :] if keep < num_patches else order.roll(-shift(num_patches), 1)
    wrong = fraction(chance) < wrong_probability  # [B, K]
    restore = torch.empty_like(order).scatter_(1, order, index.expand_as(order))
    return kept.clone(), torch.where(wrong, donors, kept), wrong, restore


def shift(num_patches: int) -> int:
    """How far donors are turned where all are kept: never a whole turn, no token keeps its own place."""
    return (1 + num_patches // 2) % num_patches or 1
