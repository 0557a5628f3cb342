"""Which patches the students of these measurements see."""

import torch
from torch import Tensor

from vitkiln.kernels import sample_tokens

from .work import Place


def draw(place: Place, batch: int, patches: int, kept: int) -> tuple[Tensor, ...]:
    """keep, place, wrong, restore: a fifth of the kept patches are told a wrong place."""
    seed = torch.randint(0, 1 << 30, (2,), device=place.device)
    return sample_tokens(seed, torch.arange(batch, device=place.device), patches, kept, 0.2)
