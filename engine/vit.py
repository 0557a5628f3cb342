"""The Vision Transformer, in timm's parameter names, reading only the patches that its plan keeps."""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels

from .initialise import initialise
from .positions import resample
from .settings import Encoder
from .vocabulary import Plan
from .weights import load_weights

EVERYTHING = Plan()
Pair = tuple[Tensor, Tensor]


def build(settings: Encoder) -> "ViT":
    """The encoder of a recipe: initialised, or begun with the weights that it names."""
    encoder = ViT(settings)
    if settings.weights:
        load_weights(encoder, Path(settings.weights))
    return encoder


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch, which `kernels.add_layer_norm` applies."""

    def __init__(self, width: int, value: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))


class Attention(nn.Module):
    """Multi-head self-attention with one packed projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(kernels.attention(self.qkv(x), self.heads))

    def first_row(self, x: Tensor) -> Tensor:
        """The first row of `forward`, for the price of keys and values. x [B, N, D] -> [B, 1, D]"""
        width = x.shape[-1]
        query = F.linear(x[:, :1], self.qkv.weight[:width], self.qkv.bias[:width])
        key_value = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        return self.proj(kernels.class_attention(query, key_value, self.heads))


class Mlp(nn.Module):
    """Two layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(kernels.linear_gelu(x, self.fc1.weight, self.fc1.bias))


class Block(nn.Module):
    """Pre-norm transformer block, entered and left with the residual stream and its norm side by side.

    So every sum is computed together with the norm that follows it, which is the next block's first or the last.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, layer_scale: float | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, y: Tensor, after: nn.LayerNorm, branches: Tensor | None = None) -> Pair:
        """Stream x and y = norm1(x), [B, N, D] -> the stream after this block and its norm by `after`.

        `branches` [B, 2] scales the two residual branches of each image (drop path).
        """
        return self.rest(x, self.attn(y), after, branches)

    def first_row(self, x: Tensor, y: Tensor, after: nn.LayerNorm, branches: Tensor | None = None) -> Pair:
        """The first row of `forward`, for little more than keys and values: two of [B, 1, D]"""
        return self.rest(x[:, :1], self.attn.first_row(y), after, branches)

    def rest(self, x: Tensor, attended: Tensor, after: nn.LayerNorm, branches: Tensor | None) -> Pair:
        first, second = (None, None) if branches is None else branches.unbind(1)
        x, y = add_norm(x, attended, self.norm2, self.ls1, first)
        return add_norm(x, self.mlp(y), after, self.ls2, second)


def add_norm(x: Tensor, branch: Tensor | None, norm: nn.LayerNorm, scale: nn.Module, drop: Tensor | None) -> Pair:
    """x + scale * drop * branch, and its norm."""
    gamma = scale.gamma if isinstance(scale, LayerScale) else None
    return kernels.add_layer_norm(x, branch, norm.weight, norm.bias, norm.eps, gamma, drop)


class PatchEmbed(nn.Module):
    """Holds the projection under timm's name; `kernels.patch_embed` applies it."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)


class ViT(nn.Module):
    """Vision Transformer (Dosovitskiy et al., arXiv:2010.11929) without a head.

    Its state_dict is that of timm's VisionTransformer with `num_classes=0`, so either loads the other's.
    """

    def __init__(self, settings: Encoder):
        super().__init__()
        self.settings = settings
        self.width, depth, heads = settings.shape
        self.grid = settings.image_size // settings.patch_size
        self.prefix = 1 + settings.registers
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        if settings.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, settings.registers, self.width))
        rows = self.grid**2 + self.prefix * settings.class_position
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, self.width), settings.position == "learned")
        self.patch_embed = PatchEmbed(settings.patch_size, self.width)
        self.blocks = nn.ModuleList(
            Block(self.width, heads, settings.mlp_ratio, settings.layer_scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        initialise(self)
        self.patch_embed.requires_grad_(not settings.freeze_patch_embed)

    def forward(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        """Tokens after the last norm: prefix (class, registers), then the kept patches in the plan's order.

        images uint8 or float [B, H, W, 3] or [B, 3, H, W]; branches [B, depth, 2] or None -> [B, prefix + K, D]
        """
        x, y = self.enter(images, plan)
        for block, after, part in self.steps(branches):
            x, y = block(x, y, after, part)
        return y

    def class_token(self, images: Tensor, plan: Plan = EVERYTHING, branches: Tensor | None = None) -> Tensor:
        """The class token of `forward`, its last block computing only what is read: [B, D]"""
        x, y = self.enter(images, plan)
        *steps, (last, after, part) = self.steps(branches)
        for block, following, its_part in steps:
            x, y = block(x, y, following, its_part)
        return last.first_row(x, y, after, part)[1][:, 0]

    def enter(self, images: Tensor, plan: Plan) -> Pair:
        """The residual stream and the first block's norm of it."""
        x = self.embed(images, plan)
        return x, add_norm(x, None, cast("Block", self.blocks[0]).norm1, nn.Identity(), None)[1]

    def steps(self, branches: Tensor | None) -> list[tuple[Block, nn.LayerNorm, Tensor | None]]:
        """Each block, the norm that follows it, and its factors of drop path."""
        blocks = cast("list[Block]", [*self.blocks])
        norms = [*(block.norm1 for block in blocks[1:]), self.norm]
        parts = [None] * len(norms) if branches is None else branches.unbind(1)
        return list(zip(blocks, norms, parts, strict=True))

    def embed(self, images: Tensor, plan: Plan) -> Tensor:
        """Gather what is kept, project it, tell it its place: [B, prefix + K, D], in fp32 under autocast."""
        prefix, position = self.positions(self.grid_of(images))
        x = kernels.patch_embed(
            images,
            self.patch_embed.proj.weight,
            self.patch_embed.proj.bias,
            position,
            prefix,
            plan.keep,
            plan.place,
            self.settings.mean,
            self.settings.std,
        )
        return x.float() if x.dtype != torch.float64 else x

    def positions(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The prefix rows with their positions [prefix, D], and the patches' table for this grid [P, D]."""
        prefix = torch.cat([self.cls_token, self.reg_token], 1) if self.settings.registers else self.cls_token
        table = self.pos_embed[0]
        if self.settings.class_position:
            prefix, table = prefix + table[: self.prefix], table[self.prefix :]
        if grid != (self.grid, self.grid):
            table = resample(table, (self.grid, self.grid), grid, self.settings.position)
        return prefix[0], table

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[1:3] if images.shape[-1] == 3 else images.shape[2:]
        size = self.settings.patch_size
        if height % size or width % size:
            raise ValueError(f"images: {height} x {width} pixels; must be multiples of the patch size {size}")
        return height // size, width // size
