"""Which blocks can be served: those that consist of the parts of timm's, and of nothing else."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from .._shared.checks import refusal

PARTS = {"norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2"}
ATTENTION_PARTS = {"qkv", "q_norm", "k_norm", "attn_drop", "proj", "proj_drop"}
OPTIONAL = {"norm", "gate"}  # of later versions of timm, where they must do nothing


def found(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks by name; ValueError where there are none, or one that cannot be served."""
    blocks = {name: module for name, module in model.named_modules() if {"attn", "mlp"} <= children(module).keys()}
    if not blocks:
        raise refusal("model", type(model).__name__, "a model with blocks of timm's VisionTransformer")
    for name, block in blocks.items():
        for where, was, must in obstacles(block):
            raise ValueError(f"{'.'.join(filter(None, (name, where)))}: {was}; must be {must}")
    return blocks


def children(module: nn.Module) -> dict[str, Any]:
    """Its direct parts."""
    return {name: child for name, child in module.named_children() if child is not None}


def obstacles(block: Any) -> Iterator[tuple[str, str, str]]:
    """Where a block differs from what is replaced: the part, what it is, what it must be."""
    if "forward" in vars(block):
        yield "", f"{type(block).__name__} with a forward of its own", "as timm made it, and not patched yet"
    if children(block).keys() != PARTS or list(block.parameters(recurse=False)):
        yield "", type(block).__name__, f"a block of {', '.join(sorted(PARTS))}, and nothing else"
        return
    for name in ("norm1", "norm2"):
        norm = getattr(block, name)
        if not isinstance(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            yield name, described(norm), "a LayerNorm with weight and bias"
    for name in ("ls1", "ls2"):
        scale = getattr(block, name)
        if not isinstance(scale, nn.Identity) and [key for key, _ in scale.named_parameters()] != ["gamma"]:
            yield name, described(scale), "a LayerScale or nothing"
    if not isinstance(block.drop_path1, nn.Identity) and not hasattr(block.drop_path1, "drop_prob"):
        yield "drop_path1", described(block.drop_path1), "a DropPath or nothing"
    yield from attention_obstacles(block.attn)


def attention_obstacles(attention: Any) -> Iterator[tuple[str, str, str]]:
    """The same for the attention of a block."""
    parts = children(attention)
    if not parts.keys() >= ATTENTION_PARTS or list(attention.parameters(recurse=False)):
        yield "attn", type(attention).__name__, f"attention of {', '.join(sorted(ATTENTION_PARTS))}"
        return
    for name, part in parts.items():
        where = f"attn.{name}"
        if name not in ATTENTION_PARTS | OPTIONAL:
            yield where, described(part), "absent: it is not served"
        if name in ("q_norm", "k_norm", "norm", "gate") and not isinstance(part, nn.Identity):
            yield where, described(part), "absent: what normalises or gates attention is not served"
    if getattr(parts["attn_drop"], "p", 0.0):
        yield "attn.attn_drop", described(parts["attn_drop"]), "0: dropout of attention is not served"
    width = parts["proj"].in_features
    scale = (width / attention.num_heads) ** -0.5
    if parts["qkv"].out_features != 3 * width or abs(attention.scale / scale - 1) > 1e-6:
        yield "attn", type(attention).__name__, "of equally wide query, key and value, scaled by 1 / sqrt(head width)"


def described(module: nn.Module) -> str:
    """As a model prints it, on one line.

    >>> described(nn.Dropout(0.1))
    'Dropout(p=0.1, inplace=False)'
    """
    return " ".join(str(module).split())
