"""Kernels that others maintain, as they are asked for here: those of PyTorch, and FlashAttention 2."""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._shared.choice import constant
from .reference import heads, joined

NARROW = (torch.bfloat16, torch.float16)


def of_torch(qkv: Tensor, num_heads: int) -> Tensor:
    """PyTorch's, in the order that suits the device."""
    return joined(product(*heads(qkv, 3, num_heads)))


def of_cudnn(qkv: Tensor, num_heads: int) -> Tensor:
    """cuDNN's and no other: RuntimeError where it has none for the shape."""
    return joined(product_by([SDPBackend.CUDNN_ATTENTION], *heads(qkv, 3, num_heads)))


def of_flash(qkv: Tensor, num_heads: int) -> Tensor:
    """FlashAttention 2 (Dao, arXiv:2307.08691), which reads and differentiates packed projections as they are."""
    from flash_attn import flash_attn_qkvpacked_func  # type: ignore[import-not-found,import-untyped,unused-ignore]

    packed = qkv.view(*qkv.shape[:2], 3, num_heads, -1)
    return flash_attn_qkvpacked_func(packed, deterministic=torch.are_deterministic_algorithms_enabled()).flatten(2)


BACKENDS = {"torch": of_torch, "cudnn": of_cudnn, "flash": of_flash}


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


def obstacle(name: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why cuDNN or FlashAttention 2 cannot be used, or None."""
    if device_type != "cuda":
        return f"{name} needs a CUDA device, not {device_type}"
    if dtype not in NARROW:
        return f"{name} multiplies 16-bit numbers, and qkv is {str(dtype).removeprefix('torch.')}"
    return "the package flash_attn is not installed" if name == "flash" and not flash_installed() else None


@constant
def flash_installed() -> bool:
    """Version 4 shares the name of the package and lacks the module."""
    return find_spec("flash_attn") is not None and find_spec("flash_attn.flash_attn_interface") is not None
