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
        "memory_bytes": memory(recipe, parameters, learned, tokens(recipe, method)),
    }


def classes(recipe: Recipe) -> int:
    """As the recipe says; of a folder that nobody has looked into yet, ImageNet's 1000."""
    said = getattr(recipe.method, "classes", None)
    return int(said or (recipe.data.categories if recipe.data.source == "fractal" else 1000))


def tokens(recipe: Recipe, method: Method) -> int:
    """That the student sees of one image, in all its views: the leading ones in part, the others whole."""
    keep, in_part = getattr(recipe.method, "keep", 1.0), getattr(getattr(method, "base", method), "student", 0)
    patches = [(view.size // recipe.encoder.patch_size) ** 2 for view in method.views()]
    return sum(1 + (kept(count, keep) if number < in_part else count) for number, count in enumerate(patches))


def memory(recipe: Recipe, parameters: list[torch.nn.Parameter], learned: int, seen: int) -> int:
    """An estimate for one rank: weights, gradients and two moments in fp32, and what the student keeps for backward.

    Without fused kernels a block keeps about 17 values for each token and channel: inputs and outputs of two norms
    (4), query, key, value and their result (4), the MLP's hidden layer before and after GELU (8), a residual (1).
    The teacher keeps none.
    """
    width, depth, _ = recipe.encoder.shape
    fixed = 4 * (sum(p.numel() for p in parameters) + 3 * learned)
    kept_values = 17 * recipe.data.batch_size // recipe.run.accumulate * seen * depth * width
    return fixed + BYTES[recipe.run.precision] * kept_values
