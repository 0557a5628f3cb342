"""Weights that an encoder begins with: exported ones, ours or timm's, fitted to its size of image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from .errors import RecipeError
from .positions import resample

if TYPE_CHECKING:
    from .vit import ViT


def load_weights(encoder: ViT, path: Path) -> None:
    """Start an encoder from exported weights, ours or timm's, resampling positions where the grid differs."""
    if not path.is_file():
        raise RecipeError(f"encoder.weights={path}: no such file; expected a .safetensors file under timm's names")
    state = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("head.")}
    if "pos_embed" in state:
        state["pos_embed"] = fitted(state["pos_embed"], encoder)
    wrong = [
        name for name, tensor in encoder.state_dict().items() if name not in state or state[name].shape != tensor.shape
    ]
    if wrong or set(state) - set(encoder.state_dict()):
        first = (wrong or sorted(set(state) - set(encoder.state_dict())))[0]
        raise RecipeError(
            f"encoder.weights={path}: {first} is missing, left over or of another shape; check the encoder's size"
        )
    encoder.load_state_dict(state)


def fitted(table: Tensor, encoder: ViT) -> Tensor:
    """A position table for this encoder's grid."""
    prefix = encoder.prefix * encoder.settings.class_position
    old = round((table.shape[1] - prefix) ** 0.5)
    if old == encoder.grid or old**2 != table.shape[1] - prefix:
        return table
    kind = encoder.settings.position
    patches = resample(table[0, prefix:], (old, old), (encoder.grid, encoder.grid), kind)
    return torch.cat([table[0, :prefix], patches])[None]
