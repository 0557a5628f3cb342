"""Encoders by name: their sizes, and what those that are no plain Vision Transformer leave no choice of."""

from __future__ import annotations

from typing import Any, Literal

SIZES = {  # width, depth, heads
    "vit_tiny": (192, 12, 3),  # Steiner et al., arXiv:2106.10270, table 2
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "swin_tiny": (768, 12, 24),  # of the last of four stages, which have 2, 2, 6 and 2 blocks; arXiv:2103.14030
    "t2t_vit_14": (384, 14, 6),  # Yuan et al., arXiv:2101.11986, table 1
}
ModelName = Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "swin_tiny", "t2t_vit_14"]

BROUGHT: dict[str, dict[str, Any]] = {  # values of keys that a recipe does not set
    "swin_tiny": {"patch_size": 32, "position": "none", "init": "truncated_normal", "drop_path": 0.1},
    "t2t_vit_14": {"mlp_ratio": 3.0, "init": "truncated_normal"},
}
CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {  # all that such a key may be
    "swin_tiny": {
        "patch_size": (32,),  # pixels between the tokens that come out
        "width": (None,),
        "depth": (None,),
        "heads": (None,),
        "mlp_ratio": (4.0,),
        "position": ("none",),  # each window has relative ones
        "class_position": (True,),
        "registers": (0,),
        "layer_scale": (None,),
        "init": ("truncated_normal",),
    },
    "t2t_vit_14": {"patch_size": (16, 32), "init": ("truncated_normal",)},  # 32: pairs of rows and columns are averaged
}
SWIN_STAGES = ((4, 96, 2), (8, 192, 2), (16, 384, 6), (32, 768, 2))  # pixels between tokens, width, blocks
T2T_STRIDE = 16  # pixels between tokens inside of T2T-ViT
PARAMETERS = {"swin_tiny": 27_519_354, "t2t_vit_14": 21_172_582}  # at 224 pixels, without a head


def activations(name: str, shape: tuple[int, int, int], size: int, tokens: int) -> int:
    """Tokens times channels, over all blocks, of one square crop of `size` pixels of which `tokens` are seen."""
    if name == "swin_tiny":
        return sum((size // step) ** 2 * width * depth for step, width, depth in SWIN_STAGES)
    width, depth, _ = shape
    return (1 + (size // T2T_STRIDE) ** 2 if name == "t2t_vit_14" else tokens) * width * depth
