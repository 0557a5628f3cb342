"""What a recipe amounts to before anything is trained: sizes, steps, rate, memory, negatives."""

from __future__ import annotations

from typing import Any

import torch

from . import methods
from .methods.method import Method
from .optim import effective_lr
from .pace import budget
from .recipe import Recipe
from .settings import Labelled
from .settings.backbones import activations
from .settings.sections import kept

BYTES = {"bf16": 2, "fp32": 4}


def report(recipe: Recipe) -> dict[str, Any]:
    """Figures by name. Nothing is allocated: the model is built on PyTorch's meta device."""
    bare = recipe.encoder.model_copy(update={"weights": None})
    with torch.device("meta"):
        method = methods.find(recipe.method.name)(recipe.method.with_data(classes(recipe)), bare)
    parameters = list(method.parameters())
    learned = sum(p.numel() for p in parameters if p.requires_grad)
    patches = recipe.encoder.patches
    seen = kept(patches, getattr(recipe.method, "keep", 1.0))
    return {
        "method": recipe.method.name,
        **({"classes": classes(recipe)} if isinstance(recipe.method, Labelled) else {}),
        "encoder_parameters": sum(p.numel() for p in method.backbone().parameters()),
        "learned_parameters": learned,
        "all_parameters": sum(p.numel() for p in parameters),
        "patches": patches,
        "patches_seen": seen,
        "views": [view.size for view in method.views()],
        "batch_size": recipe.data.batch_size,
        "micro_batch": recipe.data.batch_size // recipe.run.accumulate,
        "effective_lr": effective_lr(recipe.optim, recipe.data.batch_size),
        "budget": budget(recipe.run),
        "negatives_per_anchor": method.negatives(recipe.data.batch_size // recipe.run.accumulate),
        "memory_bytes": memory(
            recipe, parameters, learned, remembered(recipe, method) * activations_of(recipe, method)
        ),
    }


def classes(recipe: Recipe) -> int:
    """As the recipe says; of a folder that nobody has looked into yet, ImageNet's 1000."""
    said = getattr(recipe.method, "classes", None)
    return int(said or (recipe.data.categories if recipe.data.source == "fractal" else 1000))


def activations_of(recipe: Recipe, method: Method) -> int:
    """Tokens times channels, over all blocks, of what the student sees of one image in all its views: the leading
    ones in part, the others whole."""
    keep, in_part = getattr(recipe.method, "keep", 1.0), getattr(getattr(method, "base", method), "student", 0)
    encoder, found = recipe.encoder, 0
    for number, view in enumerate(method.views()):
        patches = (view.size // encoder.patch_size) ** 2
        seen = 1 + (kept(patches, keep) if number < in_part else patches)
        found += activations(encoder.name, encoder.shape, view.size, seen)
    return found


def memory(recipe: Recipe, parameters: list[torch.nn.Parameter], learned: int, seen: float) -> int:
    """An estimate for one rank: weights, gradients and two moments in fp32, and what the student keeps for backward.

    Without fused kernels a block keeps about 17 values for each token and channel: inputs and outputs of two norms
    (4), query, key, value and their result (4), the MLP's hidden layer before and after GELU (8), a residual (1).
    The teacher keeps none. `seen` is tokens times channels of all that is remembered at a time.
    """
    fixed = 4 * (sum(p.numel() for p in parameters) + 3 * learned)
    return fixed + BYTES[recipe.run.precision] * int(17 * seen)


def remembered(recipe: Recipe, method: Method) -> float:
    """Images whose activations are kept at a time: a micro-batch, a chunk of it, or none of a frozen encoder."""
    images = recipe.data.batch_size // recipe.run.accumulate
    chunk = getattr(recipe.method, "chunk", None)
    if getattr(recipe.method, "frozen", False):
        return 0
    return images if chunk is None else min(images, chunk / len(method.views()))
