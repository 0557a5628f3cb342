"""Attention of short sequences by everybody's kernels, packing of the projections included."""

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitkiln.kernels import attention
from vitkiln.kernels.attention import backends

from .work import Place, Provider, Work, plain

LENGTHS = [50, 197, 37, 98]  # the student and the teacher first: time may run out


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
    providers = {f"torch {name}": plain(by(backend, heads)) for name, backend in found.items()}
    if place.device.type == "cuda" and backends.flash_installed():
        providers["flash-attn"] = plain(lambda qkv: backends.of_flash(qkv, heads))
    return providers


def by(backend: SDPBackend, heads: int) -> Callable[[Tensor], Tensor]:
    """One kernel of PyTorch's, from packed projections and back."""

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = qkv.unflatten(-1, (3, heads, 64)).permute(2, 0, 3, 1, 4).unbind(0)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    return attend
