"""How encoders and decoders begin: the published initialisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .vit import ViT


@torch.no_grad()
def initialise(vit: ViT) -> None:
    """Positions, tokens, linear layers and patch projection, as `settings.init` and `settings.position` say."""
    positions(vit)
    std = 1e-6 if vit.settings.init == "mocov3" else 0.02
    nn.init.normal_(vit.cls_token, std=std)
    if vit.settings.registers:
        nn.init.normal_(vit.reg_token, std=std)
    {"mocov3": mocov3, "mae": mae, "truncated_normal": truncated_normal}[vit.settings.init](vit)


def positions(vit: ViT) -> None:
    """The fixed table, or a learned one, drawn, or none."""
    if vit.settings.position == "sincos":
        vit.pos_embed[0] = vit.fixed((vit.side, vit.side))
    elif vit.settings.position == "learned":
        nn.init.trunc_normal_(vit.pos_embed, std=0.02)


def mocov3(vit: ViT) -> None:
    """Xavier-uniform, query, key and value each a matrix of its own, biases 0, the projection by its fan of pixels."""
    for name, module in vit.named_modules():
        if isinstance(module, nn.Linear):
            parts = 3 if name.endswith("qkv") else 1
            bound = (6 / (module.out_features // parts + module.in_features)) ** 0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
    bound = (6 / (3 * vit.settings.patch_size**2 + vit.width)) ** 0.5
    proj = cast("nn.Conv2d", vit.patch_embed.proj)
    nn.init.uniform_(proj.weight, -bound, bound)
    nn.init.zeros_(cast("Tensor", proj.bias))


def mae(vit: ViT) -> None:
    """Xavier-uniform, query, key and value one matrix, the projection as one too, its bias at PyTorch's default."""
    xavier(vit)
    nn.init.xavier_uniform_(cast("nn.Conv2d", vit.patch_embed.proj).weight.flatten(1))


def xavier(module: nn.Module) -> None:
    """Every linear layer Xavier-uniform, its bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def truncated_normal(vit: ViT) -> None:
    """DINO, DeiT, RelViT, GMML: linear layers at 0.02, biases 0, the projection at PyTorch's default."""
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
