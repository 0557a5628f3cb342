"""What stands on an encoder while it learns, and is thrown away afterwards: projectors and predictors."""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels

from . import distributed


class BatchNorm(nn.Module):
    """Normalise each feature over the rows of all ranks: (x - mean) / sqrt(var + eps), scaled and shifted if affine.

    Statistics are the batch's own, always: no method evaluates its heads, so no running average is kept. They are
    reduced in fp32, on any backend, with the gradient flowing through the reduction, so that several ranks equal one
    rank that holds all rows. x [N, D] -> [N, D]
    """

    def __init__(self, width: int, affine: bool = True, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if distributed.world() == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        with torch.autocast(x.device.type, enabled=False):
            return self.over_ranks(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def over_ranks(self, x: Tensor) -> Tensor:
        rows = x.shape[0] * distributed.world()
        x = x - distributed.sum_over_ranks(x.sum(0)) / rows  # centred first: a sum of squares would cancel
        x = x * torch.rsqrt(distributed.sum_over_ranks(x.square().sum(0)) / rows + self.eps)
        return x if self.weight is None or self.bias is None else x * self.weight + self.bias


def batch_norm_mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers without bias, each followed by BatchNorm: affine and ReLU between layers, neither at the end.

    The projector and predictor of MoCo v3 (arXiv:2104.02057, section 4.1), at PyTorch's default initialisation.
    """
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        layers += [nn.Linear(fan_in, fan_out, bias=False), BatchNorm(fan_out, affine=not last)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PrototypeHead(nn.Module):
    """Linear layers with GELU between them, then unit length; beside them the prototypes [K, d] to compare that with.

    The head of DINO (arXiv:2104.14294, section 3.1 and appendix C). The comparison itself, its weight-normalised last
    layer, is left to `kernels.prototype_cross_entropy`, so that nobody keeps K numbers for each row. Initialised as
    published: truncated normal 0.02 and biases 0, prototypes at PyTorch's default. x [N, widths[0]] -> [N, d]
    """

    def __init__(self, widths: list[int], prototypes: int, learned_gain: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        for layer in self.layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.last = nn.Linear(widths[-1], prototypes, bias=False)  # only the directions of its rows matter
        self.gain = nn.Parameter(torch.ones(prototypes, 1)) if learned_gain else None

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = cast("list[nn.Linear]", [*self.layers])
        for layer in hidden:
            x = kernels.linear_gelu(x, layer.weight, layer.bias)
        x = last(x)
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)  # a low temperature follows

    def prototypes(self) -> Tensor:
        """[K, d], of unit length, times their gains where those are learned."""
        directions = F.normalize(self.last.weight, dim=1)
        return directions if self.gain is None else directions * self.gain

    def last_layer(self) -> list[nn.Parameter]:
        """What prototypes are made of."""
        return [parameter for parameter in (self.last.weight, self.gain) if isinstance(parameter, nn.Parameter)]
