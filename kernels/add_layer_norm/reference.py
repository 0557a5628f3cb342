"""What adding a branch and normalising means, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.registration import autocast_dtype


def add_layer_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None = None,
    drop_path: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """sum = x + drop_path * scale * branch, and LayerNorm(sum) * weight + bias; in fp32, each rounded once

    >>> x, one, zero = torch.tensor([[1.0, 5.0]]), torch.ones(2), torch.zeros(2)
    >>> [out.tolist() for out in add_layer_norm(x, x, one, zero, 0.0, scale=one * 2)]
    [[[3.0, 15.0]], [[-1.0, 1.0]]]
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if branch is not None:
        branch = branch.to(wide)
        if scale is not None:
            branch = branch * scale.to(wide)
        if drop_path is not None:
            branch = branch * drop_path.to(wide).view(-1, *[1] * (x.dim() - 1))
        x = (x.to(wide) + branch).to(x.dtype)
    normalised = F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps)
    return x, normalised.to(autocast_dtype(x) or x.dtype)
