"""The operator behind all of these losses: a log-sum-exp of each query's similarities, its logits never kept."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, constant, forced, triton_obstacle
from .._shared.registration import operator
from . import chunks, reference
from .chunks import NONE

Three = tuple[Tensor, Tensor, Tensor]


@operator("info_nce")
def forward_rows(
    query: Tensor,
    key: Tensor,
    temperature: float,
    positive: int,
    without: int,
    normalize: bool,
    ready: bool,
    triton: bool,
) -> Three:
    """query [N, D], key [M, D] of one type -> losses and log-sum-exps [N], and d loss / d query [N, D] if `ready`

    Row i knows no key i + without. Its loss is the log-sum-exp of its logits or, with a positive, that of all but
    key i + positive, less that key's logit, through log(1 + exp(.)).
    """
    if triton:
        from . import launch

        return launch.forward(query, key, temperature, positive, without, normalize, ready)
    return chunks.forward(query, key, temperature, positive, without, normalize, ready)


@forward_rows.register_fake
def _(
    query: Tensor,
    key: Tensor,
    temperature: float,
    positive: int,
    without: int,
    normalize: bool,
    ready: bool,
    triton: bool,
) -> Three:
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = query.shape[0]
    loss, lse = (query.new_empty(rows, dtype=wide) for _ in range(2))
    return loss, lse, query.new_empty(query.shape if ready else (0,), dtype=wide)


@operator("info_nce_backward")
def backward_rows(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    loss: Tensor,
    lse: Tensor,
    temperature: float,
    positive: int,
    without: int,
    normalize: bool,
    to_key: bool,
    triton: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of query [N, D] and key [M, D], the latter empty unless asked for."""
    if triton:
        from . import launch

        return launch.backward(grad, query, key, loss, lse, temperature, positive, without, normalize, to_key)
    return chunks.backward(grad, query, key, loss, lse, (temperature, positive, without, normalize), to_key)


@backward_rows.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    loss: Tensor,
    lse: Tensor,
    temperature: float,
    positive: int,
    without: int,
    normalize: bool,
    to_key: bool,
    triton: bool,
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape if to_key else (0,))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    query, key, *ctx.settings, ctx.ready, ctx.triton = inputs
    loss, lse, to_query = output
    ctx.dtype = query.dtype
    ctx.save_for_backward(*((to_query,) if ctx.ready else (query, key, loss, lse)))
    ctx.mark_non_differentiable(lse, to_query)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    rest = (None,) * 6
    if ctx.ready:
        (to_query,) = ctx.saved_tensors
        return (to_query * grad[:, None]).to(ctx.dtype), None, *rest
    query, key, loss, lse = ctx.saved_tensors
    to_key = ctx.needs_input_grad[1]
    query_grad, key_grad = backward_rows(grad, query, key, loss, lse, *ctx.settings, to_key, ctx.triton)
    return query_grad, key_grad if to_key else None, *rest


forward_rows.register_autograd(_backward, setup_context=_save)


def obstacle(dtype: torch.dtype, width: int, unavailable: str | None, asked: bool) -> str | None:
    """Why the Triton kernel cannot or, unless it is asked for, should not run for such rows, or None."""
    if unavailable:
        return unavailable
    if dtype == torch.float64:
        return "the kernel adds in fp32, and an argument is float64"
    if dtype == torch.float32 and not asked:
        return "in fp32 the kernel multiplies in tf32, which torch.set_float32_matmul_precision does not allow"
    widest = 256 if dtype == torch.bfloat16 else 128
    return f"the kernel takes up to {widest} channels of {dtype}, not {width}" if width > widest else None


def implementation(*arguments: Tensor) -> str:
    """What these run: reference, torch or triton."""
    unavailable = triton_obstacle(arguments[0].device.type)
    asked = forced("contrastive") == "triton" or _tf32_is_allowed()
    found = obstacle(common_dtype(*arguments), arguments[0].shape[-1], unavailable, asked)
    surprise = arguments[0].device.type == "cuda" and unavailable is not None
    return choose("contrastive", found, expected=surprise)


@constant
def _tf32_is_allowed() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def common_dtype(*arguments: Tensor) -> torch.dtype:
    """The narrowest type that holds all of them."""
    dtype = arguments[0].dtype
    for argument in arguments[1:]:
        dtype = torch.promote_types(dtype, argument.dtype)
    return dtype


def row_losses(
    query: Tensor, key: Tensor, temperature: float, positive: int = NONE, without: int = NONE, normalize: bool = True
) -> Tensor:
    """[N]: the operator for rows of any types; keys that need no gradient have the queries' made on the way."""
    triton = implementation(query, key) == "triton"
    dtype = common_dtype(query, key)
    ready = torch.is_grad_enabled() and query.requires_grad and not key.requires_grad
    arguments = query.to(dtype), key.to(dtype), float(temperature), positive, without, normalize
    return forward_rows(*arguments, ready, triton)[0]


def info_nce(query: Tensor, key: Tensor, temperature: float, offset: int = 0, normalize: bool = True) -> Tensor:
    """loss[i] = -log softmax_j(query[i] . key[j] / temperature) at j = i + offset

    query [N, D] and key [M, D] of any floating types, brought to unit length unless `normalize` is off; the
    loss of each row is fp32 [N] (fp64 where an argument is), in nats and without MoCo v3's factor of 2 *
    temperature. Sums and exponentials are fp32, under autocast too, and products of what arrives are exact; no
    N x M array is kept for the backward pass. Where keys need no gradient, that of the queries is made in the
    forward pass. With keys gathered from all ranks, offset is the rank times N. A temperature that is learnt
    goes into the query: normalize, multiply, and call with temperature 1 and normalize=False. N may be 0.
    ValueError where shapes do not fit, a positive would lie outside of the keys, or the temperature is not
    positive.

    van den Oord et al., arXiv:1807.03748.

    >>> [round(loss, 4) for loss in info_nce(torch.eye(2), torch.eye(2), temperature=1.0).tolist()]
    [0.3133, 0.3133]
    """
    check(query, key, temperature, offset)
    if implementation(query, key) == "reference":
        with torch.autocast(query.device.type, enabled=False):
            return reference.info_nce(query, key, temperature, offset, normalize)
    return row_losses(query, key, temperature, offset, normalize=normalize)


def check(query: Tensor, key: Tensor, temperature: float, offset: int) -> None:
    """What info_nce takes."""
    floating("query", query, "[N, D]")
    floating("key", key, "[M, D]")
    beside("key", key, "query", query)
    if key.shape[1] != query.shape[1]:
        raise refusal("key", key, f"as wide as query, [M, {query.shape[1]}]")
    check_temperature("temperature", temperature)
    if offset < 0 or offset + query.shape[0] > key.shape[0]:
        raise refusal("offset", offset, f"such that the positives, {query.shape[0]} keys, lie in {key.shape[0]}")


def check_temperature(name: str, temperature: float) -> None:
    """A number above 0, which NaN is not."""
    if not temperature > 0:
        raise refusal(name, temperature, "greater than 0")
