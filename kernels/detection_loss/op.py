"""`detection_loss`: a linear head and its loss in one pass over the tokens, which are saved as they are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, triton_obstacle
from .._shared.registration import operator
from . import reference


@operator("detection_loss")
def _forward(
    tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor, implementation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """tokens [B, K, D], weight [D], bias [1], wrong [B, K] -> loss, accuracy, and the logits [B, K]"""
    if implementation == "triton":
        from . import kernel

        return kernel.forward(tokens, weight, bias, wrong)
    wide = torch.promote_types(tokens.dtype, torch.float32)
    logits = tokens.to(wide) @ weight.to(wide) + bias.to(wide)
    count = max(1, wrong.numel())
    loss = F.binary_cross_entropy_with_logits(logits, wrong.to(wide), reduction="sum") / count
    return loss, ((logits > 0) == wrong).sum(dtype=torch.float32) / count, logits


@_forward.register_fake
def _(
    tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor, implementation: str
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(tokens.dtype, torch.float32)
    loss, accuracy = tokens.new_empty((), dtype=wide), tokens.new_empty((), dtype=torch.float32)
    return loss, accuracy, tokens.new_empty(tokens.shape[:2], dtype=wide)


@operator("detection_loss_backward")
def _gradients(
    grad: Tensor,
    tokens: Tensor,
    weight: Tensor,
    wrong: Tensor,
    logits: Tensor,
    to_tokens: bool,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tokens [B, K, D], empty unless asked for, of weight [D] and of bias [1]"""
    if implementation == "triton":
        from . import kernel

        tokens_grad, sums = kernel.backward(grad, tokens, weight, wrong, logits, to_tokens)
        return tokens_grad, sums[:-1].to(weight.dtype, copy=True), sums[-1:].clone()
    error = (logits.sigmoid() - wrong.to(logits.dtype)) * (grad / max(1, wrong.numel()))
    tokens_grad = tokens.new_empty(0)
    if to_tokens:
        tokens_grad = (error[..., None] * weight.to(error.dtype)).to(tokens.dtype)
    weight_grad = error.flatten() @ tokens.reshape(-1, tokens.shape[2]).to(error.dtype)
    return tokens_grad, weight_grad.to(weight.dtype), error.sum()[None]


@_gradients.register_fake
def _(
    grad: Tensor,
    tokens: Tensor,
    weight: Tensor,
    wrong: Tensor,
    logits: Tensor,
    to_tokens: bool,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens_grad = tokens.new_empty(tokens.shape if to_tokens else (0,))
    return tokens_grad, weight.new_empty(weight.shape), logits.new_empty(1)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, weight, bias, wrong, ctx.implementation = inputs
    ctx.save_for_backward(tokens, weight, wrong, output[2])
    ctx.bias = bias.dtype, bias.shape
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    to_tokens = ctx.needs_input_grad[0]
    tokens, weight, bias = _gradients(grad, *ctx.saved_tensors, to_tokens, ctx.implementation)
    dtype, shape = ctx.bias
    return tokens if to_tokens else None, weight, bias.to(dtype).view(shape), None, None


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtypes: tuple[torch.dtype, ...], width: int, unavailable: str | None) -> str | None:
    """Why the Triton kernel cannot run for such arguments, or None."""
    if unavailable:
        return unavailable
    if torch.float64 in dtypes:
        return "the kernel adds in fp32, and an argument is float64"
    return f"the kernel takes up to 4096 channels, not {width}" if width > 4096 else None


def detection_loss(tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """mean over b, k of the cross entropy of sigmoid(tokens[b, k] . weight + bias) with wrong[b, k]

    The head that detects misplaced tokens (DILEMMA, Sameni et al., arXiv:2204.04788). tokens [B, K, D],
    weight [D] and bias [] or [1] of any floating types, wrong bool [B, K]. Returns the loss in nats and the
    share of tokens judged right, fp32 scalars (the loss of float64 tokens is fp64); the accuracy has no
    gradient. Computed in fp32, under autocast too. No tokens at all: loss and accuracy 0. ValueError where a
    shape or type does not fit.

    >>> tokens, wrong = torch.tensor([[[3.0], [-3.0]]]), torch.tensor([[True, True]])
    >>> loss, accuracy = detection_loss(tokens, torch.ones(1), torch.zeros(()), wrong)
    >>> round(loss.item(), 4), accuracy.item()
    (1.5486, 0.5)
    """
    _check(tokens, weight, bias, wrong)
    device = tokens.device.type
    found = obstacle((tokens.dtype, weight.dtype, bias.dtype), tokens.shape[2], triton_obstacle(device))
    implementation = choose("detection_loss", found, expected=device == "cuda")
    if implementation == "reference":
        with torch.autocast(device, enabled=False):
            return reference.detection_loss(tokens, weight, bias, wrong)
    loss, accuracy, _ = _forward(tokens, weight, bias, wrong, implementation)
    return loss, accuracy


def _check(tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor) -> None:
    floating("tokens", tokens, "[B, K, D]")
    if not weight.dtype.is_floating_point or weight.shape != tokens.shape[2:]:
        raise refusal("weight", weight, f"a floating point tensor [{tokens.shape[2]}]")
    if not bias.dtype.is_floating_point or bias.shape not in ((), (1,)):
        raise refusal("bias", bias, "a floating point tensor [] or [1]")
    if wrong.dtype != torch.bool or wrong.shape != tokens.shape[:2]:
        raise refusal("wrong", wrong, f"bool {list(tokens.shape[:2])}")
    for name, tensor in (("weight", weight), ("bias", bias), ("wrong", wrong)):
        beside(name, tensor, "tokens", tokens)
