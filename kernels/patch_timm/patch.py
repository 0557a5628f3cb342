"""`patch_timm`: the forward of a block with attention from packed projections, and residual and norm in one pass."""

from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .._shared.checks import refusal
from ..add_layer_norm import add_layer_norm
from ..attention import attention
from . import blocks


class Patched:
    """What `patch_timm` did; `restore` undoes it, as does the end of a with statement."""

    def __init__(self, patched: dict[str, nn.Module]):
        self.blocks = patched

    def restore(self) -> None:
        """Give each block its own forward back. Once is enough; twice is no mistake."""
        for block in self.blocks.values():
            vars(block).pop("forward", None)

    def __enter__(self) -> "Patched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def patch_timm(model: nn.Module) -> Patched:
    """x += drop_path(ls1(attn(norm1(x)))); x += drop_path(ls2(mlp(norm2(x)))), by `attention` and `add_layer_norm`

    Replaces the forward of every block of timm's VisionTransformer in the model, in place. Parameters, their
    names, random numbers and results stay what they were, the latter to rounding; timm is recognised by the
    parts of its blocks and need not be installed. The model trains, compiles, and runs under autocast as
    before. Hooks on norm1, norm2, attn, ls1 and drop_path1 are no longer called: what they do is done at once.

    ValueError for a model without such blocks, and for a block with something that is not served (its name
    is said): normalised queries and keys, gates, dropout of attention, norms other than LayerNorm, parts
    that timm's has not got, and a block that is patched already. A mask is refused when it is given.

    >>> patch_timm(nn.Linear(2, 2))
    Traceback (most recent call last):
    ValueError: model: 'Linear'; must be a model with blocks of timm's VisionTransformer
    """
    found = blocks.found(model)
    for block in found.values():
        block.forward = partial(forward, block)
    return Patched(found)


def forward(block: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """x [B, N, D] -> [B, N, D]"""
    if attn_mask is not None:
        raise refusal("attn_mask", attn_mask, "None in a patched model: masks are not served")
    if is_causal:
        raise refusal("is_causal", is_causal, "False in a patched model: masks are not served")
    attn, norm1, norm2 = block.attn, block.norm1, block.norm2
    _, normed = add_layer_norm(x, None, norm1.weight, norm1.bias, norm1.eps)
    branch = attn.proj_drop(attn.proj(attention(attn.qkv(normed), attn.num_heads)))
    scale, dropped = getattr(block.ls1, "gamma", None), drop_path(block.drop_path1, branch)
    x, normed = add_layer_norm(x, branch, norm2.weight, norm2.bias, norm2.eps, scale, dropped)
    return x + block.drop_path2(block.ls2(block.mlp(normed)))


def drop_path(module: Any, branch: Tensor) -> Tensor | None:
    """A factor for each image [B], drawn as timm draws it; None where nothing is dropped."""
    rate = getattr(module, "drop_prob", 0.0)
    if not rate or not module.training:
        return None
    kept = branch.new_empty(len(branch)).bernoulli_(1 - rate)
    return kept / (1 - rate) if rate < 1 and module.scale_by_keep else kept
