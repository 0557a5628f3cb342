"""`rand_augment`: schema, shapes and the choice of an implementation. Pixels of 8 bits have no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import forced
from .._shared.native import native
from .._shared.registration import NAMESPACE, operator
from . import columns, reference

PIXELS = {"cpu": 1 << 16}  # at once: the reference's temporaries, some hundred times its input, then stay in the cache
OTHERWISE = 1 << 21  # and take no more than a GiB of a GPU
LARGEST = 16_384  # pixels along a side
INTERPOLATIONS = ("bilinear", "bicubic")


@operator("rand_augment")
def _augment(images: Tensor, operations: Tensor, fill: list[int], interpolation: str, implementation: str) -> Tensor:
    if implementation == "native" and native("rand_augment", images.device.type):
        run = getattr(torch.ops, NAMESPACE).rand_augment_layers
        pixels, layers, cubic = images.contiguous(), operations.contiguous(), interpolation == "bicubic"
        out: Tensor = run(pixels, layers, *fill, cubic, torch.get_num_threads())
        return out
    together = max(1, PIXELS.get(images.device.type, OTHERWISE) // max(1, images.shape[1] * images.shape[2]))
    parts = zip(images.split(together), operations.split(together), strict=True)
    return torch.cat([reference.rand_augment(*part, fill, interpolation) for part in parts])


@_augment.register_fake
def _(images: Tensor, operations: Tensor, fill: list[int], interpolation: str, implementation: str) -> Tensor:
    return images.new_empty(images.shape)


def rand_augment(images: Tensor, operations: Tensor, fill: Sequence[int], interpolation: str = "bilinear") -> Tensor:
    """image <- operation(image), for each row of its operations in turn

    The fifteen operations of RandAugment (Cubuk et al., arXiv:1909.13719, as timm has them) and both flips, with
    Pillow's definitions and its rounding to 8 bits after each, so that a picture is the same to the bit as one made by
    Pillow. images uint8 [B, H, W, 3]; operations float64 [B, L, 7] on the same device, a kind and its numbers as
    `columns.py` names them; fill, three values from 0 to 255, is shown where a move reaches beyond the picture, and
    interpolation, bilinear or bicubic, is how it reads between pixels. The result is a new uint8 [B, H, W, 3]. Nothing
    is random here and nothing waits for the device: a kind that there is not changes nothing, numbers out of their
    range are not looked for. ValueError where a type, shape, device or choice does not fit.

    >>> from vitkiln.kernels.rand_augment import columns
    >>> rows = torch.from_numpy(columns.row(columns.POSTERIZE, 2))[None, None]
    >>> rand_augment(torch.tensor([[[[200, 100, 50]]]], dtype=torch.uint8), rows, (0, 0, 0)).tolist()
    [[[[192, 64, 0]]]]
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        raise refusal("images", images, "uint8 [B, H, W, 3]")
    if not all(1 <= side <= LARGEST for side in images.shape[1:3]):
        raise refusal("images", images, f"of 1 to {LARGEST} pixels along a side")
    if operations.dtype != torch.float64 or operations.shape != (len(images), *operations.shape[1:2], columns.COUNT):
        raise refusal("operations", operations, f"float64 [{len(images)}, L, {columns.COUNT}]")
    beside("operations", operations, "images", images)
    if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
        raise refusal("fill", fill, "three values from 0 to 255")
    if interpolation not in INTERPOLATIONS:
        raise refusal("interpolation", interpolation, "bilinear or bicubic")
    wish = forced("rand_augment")
    if wish == "reference":
        return reference.rand_augment(images, operations, fill, interpolation)
    colour = [int(value) for value in fill]
    return _augment(images, operations, colour, interpolation, "torch" if wish == "torch" else "native")
