"""The operator on views that are cut already."""

import torch
from torch import Tensor

from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from . import reference

PIXELS = {"cpu": 1 << 16}  # at once: the reference's temporaries, some forty times its input, then stay in the cache
OTHERWISE = 1 << 22  # and take no more than a GiB of a GPU


@operator("augment_views")
def augment(images: Tensor, parameters: Tensor, implementation: str) -> Tensor:
    """In csrc/augment_views where that is asked for and built."""
    if implementation == "native" and native("augment_views", images.device.type):
        return in_native(images, parameters)
    return in_torch(images, parameters)


@augment.register_fake
def _(images: Tensor, parameters: Tensor, implementation: str) -> Tensor:
    return images.new_empty(images.shape)


def in_native(images: Tensor, parameters: Tensor) -> Tensor:
    """All images at once: on a CPU by so many threads as PyTorch has, on a GPU by a block of threads each."""
    run = getattr(torch.ops, NAMESPACE).augment_views_native
    out: Tensor = run(images.contiguous(), parameters.contiguous(), torch.get_num_threads())
    return out


def in_torch(images: Tensor, parameters: Tensor) -> Tensor:
    """The reference, a few images at a time."""
    pixels = PIXELS.get(images.device.type, OTHERWISE)
    together = max(1, pixels // max(1, images.shape[1] * images.shape[2]))
    parts = zip(images.split(together), parameters.split(together), strict=True)
    return torch.cat([reference.augment_views(*part) for part in parts])
