"""`augment_views`: schema, shapes and the choice of an implementation. Pixels of 8 bits have no gradient."""

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import choose, forced
from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from . import columns, reference

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


def augment_views(images: Tensor, parameters: Tensor) -> Tensor:
    """out = flip(solarize(blur(gray(jitter(image))))), each step of an image only where its row asks for it

    Colour jitter, grey, Gaussian blur, solarisation and flips of a batch of crops, with Pillow's definitions and its
    rounding to 8 bits between the operations, so that a picture is the same to the bit as one made by Pillow.
    images uint8 [B, H, W, 3]; parameters float32 [B, 13] on the same device, whose columns `columns.py` names; the
    result is a new uint8 [B, H, W, 3]. Nothing is random here and nothing waits for the device. A blur of sigma above
    2.44 is not supported and not looked for. ValueError where a type, shape or device does not fit.

    >>> from vitkiln.kernels.augment_views import columns
    >>> row = torch.from_numpy(columns.identity())[None]
    >>> row[0, columns.GRAY] = 1
    >>> augment_views(torch.tensor([[[[200, 100, 50]]]], dtype=torch.uint8), row).tolist()
    [[[[124, 124, 124]]]]
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise refusal("images", images, "uint8 [B, H, W, 3] of one pixel or more")
    if parameters.dtype != torch.float32 or parameters.shape != (images.shape[0], columns.COUNT):
        raise refusal("parameters", parameters, f"float32 [{images.shape[0]}, {columns.COUNT}]")
    beside("parameters", parameters, "images", images)
    implementation = choose("augment_views", "it has no Triton kernel", expected=False)
    if implementation == "reference":
        return reference.augment_views(images, parameters)
    if forced("augment_views") != "torch":
        implementation = "native"
    return augment(images, parameters, implementation)
