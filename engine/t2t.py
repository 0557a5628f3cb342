"""T2T-ViT: tokens that overlap and are gathered in three steps, before the blocks of a Vision Transformer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels

from .backbone import refuse_parts
from .settings.backbones import T2T_STRIDE
from .vit import EVERYTHING, ViT
from .vocabulary import Plan

BETWEEN = 64  # width of the tokens between two splits
FEATURES = 32  # random features of a performer's kernel
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # kernel, stride and padding of each soft split: 16 pixels a token
EPSILON = 1e-8  # beside the sum of a row of attention


class Performer(nn.Module):
    """y = v + A(q, k, v) W, then y + MLP(norm(y)): one head of attention by random features, without N x N scores.

    A query's weight for a key is the mean of f(q) f(k) over some w, f(x) = exp(w . x - |x|^2 / 2) (Choromanski et al.,
    arXiv:2009.14794). The w are at right angles, drawn once and kept with the weights; as published they are as long
    as the root of their number, half of the width, so that weights follow exp(-|q - k|^2 / 4) and not exp(q . k).
    """

    features: Tensor  # [FEATURES, width]

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width_in, eps=1e-6)
        self.kqv = nn.Linear(width_in, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        drawn = nn.init.orthogonal_(torch.empty(FEATURES, width))
        self.register_buffer("features", drawn * math.sqrt(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width_in] -> [B, N, width]"""
        key, query, value = self.kqv(self.norm1(x)).chunk(3, -1)
        x = value + self.proj(self.attend(query, key, value))
        y = self.norm2(x)
        return x + self.fc2(kernels.linear_gelu(y, self.fc1.weight, self.fc1.bias))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """sum_k f(q) . f(k) v / sum_k f(q) . f(k), in fp32 also under autocast: [B, N, width] each"""
        with torch.autocast(query.device.type, enabled=False):
            query, key, value = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, key, value))
            query, key = self.kernel(query), self.kernel(key)
            summed = key.transpose(1, 2) @ torch.cat([value, torch.ones_like(value[..., :1])], -1)  # [B, F, width + 1]
            weighted = query @ summed
            return weighted[..., :-1] / (weighted[..., -1:] + EPSILON)

    def kernel(self, x: Tensor) -> Tensor:
        """f(x) / sqrt(F): [B, N, width] -> [B, N, F]"""
        features = self.features.to(x.dtype)
        return torch.exp(x @ features.T - x.square().sum(-1, keepdim=True) / 2) / math.sqrt(FEATURES)


class TokensToToken(nn.Module):
    """Three soft splits, each of windows that overlap, with a performer after the first two."""

    def __init__(self, width: int):
        super().__init__()
        first, second, third = (kernel**2 for kernel, _, _ in SPLITS)
        self.first = Performer(3 * first, BETWEEN)
        self.second = Performer(BETWEEN * second, BETWEEN)
        self.project = nn.Linear(BETWEEN * third, width)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> tokens [B, H/16 * W/16, width]"""
        height, width = images.shape[2:]
        for (kernel, stride, padding), performer in zip(SPLITS, (self.first, self.second), strict=False):
            tokens = performer(F.unfold(images, kernel, padding=padding, stride=stride).transpose(1, 2))
            height, width = height // stride, width // stride
            images = tokens.transpose(1, 2).unflatten(2, (height, width))
        kernel, stride, padding = SPLITS[-1]
        return self.project(F.unfold(images, kernel, padding=padding, stride=stride).transpose(1, 2))


class T2TViT(ViT):
    """T2T-ViT (Yuan et al., arXiv:2101.11986) without a head: overlapping windows, not patches, become tokens.

    With `patch_size` 32 the 14 x 14 tokens that come out are averaged to 7 x 7, as RelViT (arXiv:2206.00481) has it:
    windows of 3 x 3, every second row and column, what lies beyond the edge not counted. The sinusoid table goes
    through all rows, class token first; it and the random features do not learn. Unlike the published code queries,
    keys and values of the blocks have a bias, and no token is dropped.
    """

    @property
    def stride(self) -> int:
        return T2T_STRIDE

    def projection(self) -> nn.Module:
        return TokensToToken(self.width)

    def forward(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        y = super().forward(images, plan, branches)
        if self.settings.patch_size == self.stride:
            return y
        rows, columns = self.grid_of(images)
        scale = self.settings.patch_size // self.stride
        patches = y[:, self.prefix :].transpose(1, 2).unflatten(2, (scale * rows, scale * columns))
        pooled = F.avg_pool2d(patches, 3, stride=scale, padding=1, count_include_pad=False)
        return torch.cat([y[:, : self.prefix], pooled.flatten(2).transpose(1, 2)], 1)

    def embed(self, images: Tensor, plan: Plan) -> Tensor:
        refuse_parts(plan, self.settings.name)
        rows, columns = self.grid_of(images)
        scale = self.settings.patch_size // self.stride
        prefix, position = self.positions((scale * rows, scale * columns))
        x = self.patch_embed(self.normalised(images)) + position
        x = torch.cat([prefix.expand(len(x), -1, -1), x], 1)
        return x.float() if x.dtype != torch.float64 else x

    def fixed(self, grid: tuple[int, int]) -> Tensor:
        rows = grid[0] * grid[1] + self.prefix * self.settings.class_position
        return sinusoid(rows, self.width)


def sinusoid(rows: int, width: int) -> Tensor:
    """sin(row / 10000^(2j / width)) in column 2j, its cosine in column 2j + 1: [rows, width]

    Vaswani et al., arXiv:1706.03762, section 3.5.

    >>> sinusoid(2, 2).round(decimals=2).tolist()
    [[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]
    """
    omega = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * omega
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).float()
