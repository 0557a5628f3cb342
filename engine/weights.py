"""Weights that an encoder begins with: a run's, exported ones or timm's, fitted to its size of image."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import RecipeError

if TYPE_CHECKING:
    from .backbone import Backbone

log = logging.getLogger("vitkiln")
State = dict[str, Tensor]
SIGNS = {  # weights that only one kind of encoder has
    "swin_tiny": "layers.0.blocks.0.attn.relative_position_bias_table",
    "t2t_vit_14": "patch_embed.first.features",
}
HEADS = ("head.", "fc_norm.", "head_dist.")  # what timm puts on an encoder


def load_weights(encoder: Backbone, path: Path) -> None:
    """Start an encoder from a run or checkpoint folder, or from a safetensors file under timm's names, ours or not.

    A head of any shape is left out, and positions are resampled where the grid differs. RecipeError, with the first
    weight that does not fit and the settings that would, where another does.
    """
    path = path.expanduser()
    state, heads = of_run(path) if path.is_dir() else of_file(path)
    if said := encoder.adapt(state):
        log.info("%s: %s", path, said)
    fault = misfit(state, heads, encoder)
    if fault:
        raise RecipeError(f"encoder.weights={path}: {fault}; it fits {fitting(state, heads)}")
    encoder.load_state_dict(state)


def of_run(folder: Path) -> tuple[State, int | None]:
    """The encoder of a run's newest checkpoint, or of the one that is named, and its number of heads."""
    from .export import open_encoder  # which builds a method, whose encoder may begin with weights

    recipe, step, encoder = open_encoder(folder)
    log.info("the encoder begins as that of %s, step %d, left it: %s", recipe.name, step, folder)
    return dict(encoder.state_dict()), recipe.encoder.shape[2]


def of_file(path: Path) -> tuple[State, int | None]:
    """An encoder's weights and, where the file says so, its number of heads."""
    if not path.exists():
        raise RecipeError(
            f"encoder.weights={path}: no such file or folder; must be a run folder, a checkpoint in one, or a "
            "safetensors file under timm's names"
        )
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            said = json.loads((file.metadata() or {}).get("encoder", "null"))
    except (SafetensorError, OSError) as error:
        raise RecipeError(
            f"encoder.weights={path}: cannot be read ({error}); must be a safetensors file under timm's names"
        ) from None
    if "norm.weight" not in state and "fc_norm.weight" in state:  # timm's norm of the mean over patches
        state |= {name: state[f"fc_{name}"] for name in ("norm.weight", "norm.bias")}
    heads = said.get("heads") or _named_heads(said) if isinstance(said, dict) else None
    return {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}, heads


def _named_heads(said: dict[str, object]) -> int | None:
    from .settings.backbones import SIZES

    shape = SIZES.get(str(said.get("name")))
    return shape and shape[2]


def misfit(state: State, heads: int | None, encoder: Backbone) -> str | None:
    """The first weight that is missing, of another shape or left over, or heads that differ."""
    wanted = encoder.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != tensor.shape:
            return f"{name} is {list(state[name].shape)} there and {list(tensor.shape)} here"
    left = sorted(set(state) - set(wanted))
    if left:
        return f"{left[0]} has no place here"
    here = encoder.settings.shape[2]
    return f"{heads} heads there and {here} here" if heads not in (None, here) else None


def fitting(state: State, heads: int | None) -> str:
    """The settings of the encoder that these weights are of."""
    for name, key in SIGNS.items():
        if key in state:
            return f"encoder.name={name}"
    if not {"cls_token", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= set(state):
        return "no encoder of ours: a Vision Transformer's weights under timm's names are needed"
    width = state["cls_token"].shape[-1]
    rows = state["pos_embed"].shape[1] if "pos_embed" in state else 0
    class_position = rows == 0 or round(rows**0.5) ** 2 != rows
    found = {
        "width": width,
        "depth": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "heads": heads,
        "patch_size": state["patch_embed.proj.weight"].shape[-1],
        "mlp_ratio": f"{state['blocks.0.mlp.fc1.weight'].shape[0] / width:g}",
        "registers": state["reg_token"].shape[1] if "reg_token" in state else None,
        "class_position": None if class_position else "false",
        "layer_scale": "any number" if "blocks.0.ls1.gamma" in state else None,
    }
    return ", ".join(f"encoder.{key}={value}" for key, value in found.items() if value is not None)
