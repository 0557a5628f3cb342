"""Kernels that others maintain, as they are asked for here: PyTorch's, and three generations of FlashAttention."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._shared.choice import constant
from .._shared.registration import operator
from .reference import heads, joined

NARROW = (torch.bfloat16, torch.float16)


class Others(NamedTuple):
    """What kernels of others need: of GPUs their major compute capability, of heads the widest."""

    module: str = ""  # where it is, if not in PyTorch
    install: str = ""
    majors: tuple[int, ...] | None = None  # None: 8 and later
    widest: int = 256


OTHERS = {
    "cudnn": Others(),
    "flash": Others("flash_attn.flash_attn_interface", "pip install flash-attn --no-build-isolation"),
    "flash3": Others("flash_attn_interface", "built from the folder hopper of flash-attention", (9,)),
    "flash4": Others("flash_attn.cute.interface", "pip install --pre flash-attn-4", (9, 10), 128),
}


def of_torch(qkv: Tensor, num_heads: int) -> Tensor:
    """PyTorch's, in the order that suits the device."""
    return joined(product(*heads(qkv, 3, num_heads)))


def of_cudnn(qkv: Tensor, num_heads: int) -> Tensor:
    """cuDNN's and no other: RuntimeError where it has none for the shape."""
    return joined(product_by([SDPBackend.CUDNN_ATTENTION], *heads(qkv, 3, num_heads)))


def of_flash(qkv: Tensor, num_heads: int) -> Tensor:
    """FlashAttention 2 (Dao, arXiv:2307.08691), which reads and differentiates packed projections as they are."""
    from flash_attn import flash_attn_qkvpacked_func  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return flash_attn_qkvpacked_func(packed(qkv, num_heads), deterministic=deterministic()).flatten(2)


def of_flash3(qkv: Tensor, num_heads: int) -> Tensor:
    """FlashAttention 3 (Shah et al., arXiv:2407.08608), packed likewise."""
    from flash_attn_interface import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        flash_attn_qkvpacked_func,
    )

    return flash_attn_qkvpacked_func(packed(qkv, num_heads), deterministic=deterministic()).flatten(2)


def of_flash4(qkv: Tensor, num_heads: int) -> Tensor:
    """FlashAttention 4, which takes query, key and value one by one."""
    out, _ = _flash4(qkv, num_heads)
    return out


@operator("attention_flash4")
def _flash4(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """qkv [B, N, 3*D] -> out [B, N, D], and the natural logarithms of the softmax's denominators, fp32 [B, H, N]

    These are the two functions, and their arguments, that PyTorch's activate_flash_attention_impl("FA4") puts behind
    its own operator: called here, they leave the attention of the rest of the process alone, and a backward pass is
    of the generation of its forward pass.
    """
    query, key, value = packed(qkv, num_heads).unbind(2)
    forward = import_module(OTHERS["flash4"].module)._flash_attn_fwd
    out, lse = forward(query, key, value, softmax_scale=query.shape[3] ** -0.5, causal=False, return_lse=True)
    return out.flatten(2), lse.contiguous()


@_flash4.register_fake
def _(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    batch, length, width = qkv.shape
    return qkv.new_empty(batch, length, width // 3), qkv.new_empty(batch, num_heads, length, dtype=torch.float32)


@operator("attention_flash4_backward")
def _flash4_backward(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_heads: int) -> Tensor:
    """grad [B, N, D] and what forward took and gave -> the gradient of qkv [B, N, 3*D]"""
    query, key, value = packed(qkv, num_heads).unbind(2)
    out, grad = (tensor.unflatten(2, (num_heads, -1)) for tensor in (out, grad.contiguous()))
    backward = import_module(OTHERS["flash4"].module)._flash_attn_bwd
    settings = {"softmax_scale": query.shape[3] ** -0.5, "causal": False, "deterministic": deterministic()}
    return torch.stack(backward(query, key, value, out, grad, lse, **settings), 2).flatten(2)


@_flash4_backward.register_fake
def _(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, num_heads: int) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, ctx.num_heads = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return _flash4_backward(grad, *ctx.saved_tensors, ctx.num_heads), None


_flash4.register_autograd(_backward, setup_context=_save)


def packed(qkv: Tensor, num_heads: int) -> Tensor:
    """[B, N, 3*D] -> [B, N, 3, H, d]"""
    return qkv.view(*qkv.shape[:2], 3, num_heads, -1)


@constant
def deterministic() -> bool:
    """Whether torch.use_deterministic_algorithms was called."""
    return torch.are_deterministic_algorithms_enabled()


BACKENDS = {"torch": of_torch, "cudnn": of_cudnn, "flash": of_flash, "flash3": of_flash3, "flash4": of_flash4}


def product(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of [B, H, N, d], by the first of PyTorch's kernels that can."""
    if query.device.type != "cuda":
        return F.scaled_dot_product_attention(query, key, value)
    return product_by(order(capability()), query, key, value)


def product_by(backends: list[SDPBackend], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by the first of these that can."""
    with sdpa_kernel(backends, set_priority=True):
        return F.scaled_dot_product_attention(query, key, value)


def order(capability: tuple[int, int]) -> list[SDPBackend]:
    """PyTorch by itself takes flash on a Hopper, whose fast kernels are cuDNN's; on an Ampere flash is the faster.

    >>> [backend.name for backend in order((9, 0))][:2]
    ['CUDNN_ATTENTION', 'FLASH_ATTENTION']
    """
    fast = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    if capability[0] in (9, 10):
        fast.reverse()
    return [*fast, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@constant
def capability() -> tuple[int, int]:
    """That of the device in use."""
    return torch.cuda.get_device_capability()


def obstacle(name: str, device_type: str, dtype: torch.dtype, head_width: int = 64) -> str | None:
    """Why one of `OTHERS` cannot be used, or None."""
    if device_type != "cuda":
        return f"{name} needs a CUDA device, not {device_type}"
    needs = OTHERS[name]
    if dtype not in NARROW:
        return f"{name} multiplies 16-bit numbers, and qkv is {str(dtype).removeprefix('torch.')}"
    if needs.module and (head_width % 8 or head_width > needs.widest):
        return f"{name} takes heads of a multiple of 8 up to {needs.widest}, not {head_width}"
    if needs.module and not installed(needs.module):
        return f"{name} needs the module {needs.module}, which is not installed ({needs.install})"
    if needs.majors and capability()[0] not in needs.majors:
        able = " or ".join(f"{major}.0" for major in needs.majors)
        return f"{name} needs a GPU of compute capability {able}, not {'.'.join(map(str, capability()))}"
    return None


@constant
def installed(module: str) -> bool:
    """Looked for, not imported: generations 2 and 4 share a package, in which either may be alone.

    >>> installed("torch.nn.functional"), installed("torch.nn.no_such"), installed("no_such.at_all")
    (True, False, False)
    """
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not rest:
        return spec is not None
    return any(Path(place, *rest).with_suffix(".py").is_file() for place in spec.submodule_search_locations or ())
