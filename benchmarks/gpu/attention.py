"""Attention of short sequences by everybody's kernels, packing of the projections included."""

from collections.abc import Callable, Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from torch.nn import attention as of_torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitkiln.kernels import attention
from vitkiln.kernels.attention import backends

from .work import Place, Provider, Work, plain

LENGTHS = [50, 197, 98, 37]  # the student and the teacher first: time may run out
FLASHES = {"flash": "flash-attn", "flash3": "flash-attn 3", "flash4": "flash-attn 4"}  # by those who make them
ACTIVATED = {"FA3": "flash3", "FA4": "flash4"}  # the same, behind an operator of PyTorch's


def works(place: Place) -> Iterator[Work]:
    """ViT-S and ViT-B, the larger batch first."""
    for batch in (1024, 256)[: place.size(2, 1)]:
        for heads in (6, 12)[: place.size(2, 1)]:
            for length in LENGTHS:
                for mode in ("forward", "forward+backward"):
                    yield work(place, mode, place.size(batch, 2), length, place.size(heads, 2))


def work(place: Place, mode: str, batch: int, length: int, heads: int) -> Work:
    """Heads of 64; bytes and operations as in kernels/attention/README.md."""
    gradient, width, head = mode != "forward", 64 * heads, 64

    def attend(qkv: Tensor) -> Tensor:
        return attention(qkv, heads)

    return Work(
        "attention",
        mode,
        {"B": batch, "N": length, "H": heads, "d": head},
        lambda: (place.random(batch, length, 3 * width, gradient=gradient),),
        {**theirs(place, heads), "ours": plain(attend)},
        moved=batch * length * width * (24 if gradient else 8),
        flops=4 * batch * heads * length**2 * head * (7 if gradient else 2) // 2,
    )


def theirs(place: Place, heads: int) -> dict[str, Provider]:
    """PyTorch's kernels one by one, and FlashAttention where it is installed; those of a GPU only there."""
    found = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
    if place.device.type == "cuda":
        found |= {"cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
    providers = {f"torch {name}": by(backend, heads) for name, backend in found.items()}
    if place.device.type == "cuda":
        usable = [name for name in FLASHES if not backends.obstacle(name, "cuda", place.dtype)]
        providers |= {FLASHES[name]: plain(partial(backends.BACKENDS[name], num_heads=heads)) for name in usable}
        offered = [name for name in offers() if ACTIVATED.get(name) in usable]
        providers |= {f"torch flash as {name}": by(SDPBackend.FLASH_ATTENTION, heads, name) for name in offered}
    return providers


def offers() -> list[str]:
    """The generations of FlashAttention that this PyTorch can put behind its own operator."""
    return of_torch.list_flash_attention_impls() if hasattr(of_torch, "list_flash_attention_impls") else []


def by(backend: SDPBackend, heads: int, generation: str | None = None) -> Provider:
    """One kernel of PyTorch's, from packed projections and back; which one flash is holds for the process."""

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = qkv.unflatten(-1, (3, heads, 64)).permute(2, 0, 3, 1, 4).unbind(0)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    def made() -> Callable[[Tensor], Tensor]:
        if generation is not None:
            of_torch.activate_flash_attention_impl(generation)
        elif offers() and of_torch.current_flash_attention_impl():
            of_torch.restore_flash_attention_impl()
        return attend

    return made
