"""The Vision Transformer, in timm's parameter names, reading only the patches that its plan keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels

from .backbone import EVERYTHING as EVERYTHING
from .backbone import Backbone
from .initialise import initialise
from .positions import resample, sincos
from .settings import Encoder
from .vocabulary import Plan
from .weights import load_weights

Pair = tuple[Tensor, Tensor]


def build(settings: Encoder) -> "ViT":
    """The encoder of a recipe: initialised, or begun with the weights that it names."""
    encoder = kind_of(settings.name)(settings)
    if settings.weights:
        load_weights(encoder, Path(settings.weights))
    return encoder


def kind_of(name: str) -> type["ViT"]:
    """The class of a named encoder, imported when it is asked for. Of `ViT` each has at least what `Backbone` says;
    settings refuse methods that need more (`MethodSettings.needs_plain`)."""
    if name == "swin_tiny":
        from .swin import Swin

        return cast("type[ViT]", Swin)
    if name == "t2t_vit_14":
        from .t2t import T2TViT

        return T2TViT
    return ViT


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Every block of encoders and decoders, once: what is compiled by itself."""
    found = {part: None for part in module.modules() if isinstance(part, Block)}
    encoders = [part for part in module.modules() if isinstance(part, Backbone)]
    return [*(found | {block: None for encoder in encoders for block in encoder.parts()})]


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


class ViT(Backbone):
    """Vision Transformer (Dosovitskiy et al., arXiv:2010.11929) without a head.

    Its state_dict is that of timm's VisionTransformer with `num_classes=0`, so either loads the other's.
    """

    def __init__(self, settings: Encoder):
        super().__init__()
        self.settings = settings
        self.width, depth, heads = settings.shape
        self.grid = settings.image_size // settings.patch_size
        self.side = settings.image_size // self.stride
        self.prefix = 1 + settings.registers
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        if settings.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, settings.registers, self.width))
        if settings.position != "none":
            rows = self.side**2 + self.prefix * settings.class_position
            self.pos_embed = nn.Parameter(torch.zeros(1, rows, self.width), settings.position == "learned")
        self.patch_embed = self.projection()
        self.blocks = nn.ModuleList(
            Block(self.width, heads, settings.mlp_ratio, settings.layer_scale) for _ in range(depth)
        )
        self.norm: nn.LayerNorm = nn.LayerNorm(self.width, eps=1e-6)
        initialise(self)
        self.patch_embed.requires_grad_(not settings.freeze_patch_embed)

    @property
    def stride(self) -> int:
        """Pixels between the tokens of its blocks."""
        return self.settings.patch_size

    def projection(self) -> nn.Module:
        """What makes tokens of pixels."""
        return PatchEmbed(self.settings.patch_size, self.width)

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

    def layers(
        self, images: Tensor, blocks: Sequence[int], plan: Plan = EVERYTHING, branches: Tensor | None = None
    ) -> list[Tensor]:
        """The residual stream after each of these blocks, counted from 1, without the norm: each [B, prefix + K, D]

        Blocks above the highest one are not computed. ValueError for a block that there is not.
        """
        depth, streams = len(self.blocks), []
        if not blocks or not all(1 <= number <= depth for number in blocks):
            raise ValueError(f"blocks: {list(blocks)}; must be numbers from 1 to {depth}")
        x, y = self.enter(images, plan)
        for block, after, part in self.steps(branches)[: max(blocks)]:
            x, y = block(x, y, after, part)
            streams.append(x)
        return [streams[number - 1] for number in blocks]

    def stream(self, images: Tensor, branches: Tensor | None = None) -> Tensor:
        x, y = self.enter(images, EVERYTHING)
        for block, after, part in self.steps(branches):
            x, y = block(x, y, after, part)
        return x[:, self.prefix :]

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
        proj = cast("PatchEmbed", self.patch_embed).proj
        x = kernels.patch_embed(
            images,
            proj.weight,
            proj.bias,
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
        if self.settings.position == "none":
            return prefix[0], prefix.new_zeros(grid[0] * grid[1], self.width)
        table = self.fitted(self.pos_embed, grid)[0]
        if self.settings.class_position:
            prefix, table = prefix + table[: self.prefix], table[self.prefix :]
        return prefix[0], table

    def fitted(self, table: Tensor, new: tuple[int, int]) -> Tensor:
        """A table of positions [1, rows, D] on another grid: a fixed one is made anew, a learned one is resampled."""
        prefix = self.prefix * self.settings.class_position
        old = round((table.shape[1] - prefix) ** 0.5)
        if new == (old, old) or old**2 != table.shape[1] - prefix:
            return table
        if self.settings.position == "sincos":
            return self.fixed(new).to(table)[None]
        return torch.cat([table[0, :prefix], resample(table[0, prefix:], (old, old), new)])[None]

    def adapt(self, state: dict[str, Tensor]) -> str | None:
        kind = self.settings.position
        if kind == "none":
            left = state.pop("pos_embed", None)
            return None if left is None else "its positions are left out, encoder.position=none"
        if "pos_embed" not in state:
            state["pos_embed"] = self.pos_embed.detach()
            return f"it has no positions, which begin anew, encoder.position={kind}"
        state["pos_embed"] = self.fitted(state["pos_embed"], (self.side, self.side))
        return None

    def fixed(self, grid: tuple[int, int]) -> Tensor:
        """The table that is not learned, under rows of zeros for the prefix: [rows, D]"""
        return F.pad(sincos(grid, self.width), (0, 0, self.prefix * self.settings.class_position, 0))
