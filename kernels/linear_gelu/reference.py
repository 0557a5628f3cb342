"""What a linear layer with a GELU means, in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """u Phi(u) of u = x weight^T + bias, Phi the normal distribution (by erf); [.., D], [F, D], [F] -> [.., F]

    >>> import torch
    >>> out = linear_gelu(torch.tensor([[1.0]]), torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    >>> out.mul(1000).round().int().tolist()
    [[841, -159]]
    """
    return F.gelu(F.linear(x, weight.to(x.dtype), bias.to(x.dtype)))
