"""`augment_views`: what may be asked, and the choice of an implementation. Pixels of 8 bits have no gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._shared.checks import beside, refusal
from .._shared.choice import choose, forced
from ..crop_views import asked
from . import columns, reference
from .boxes import augment_boxes
from .images import augment


def augment_views(
    images: Tensor | Sequence[Tensor],
    parameters: Tensor,
    boxes: Tensor | None = None,
    size: int | None = None,
    interpolation: str = "bilinear",
    which: Tensor | None = None,
) -> Tensor:
    """out = flip(solarize(blur(gray(jitter(image))))), each step of an image only where its row asks for it

    Colour jitter, grey, Gaussian blur, solarisation and flips of a batch of crops, with Pillow's definitions and its
    rounding to 8 bits between the operations, so that a picture is the same to the bit as one made by Pillow.
    images uint8 [B, H, W, 3]; parameters float32 [B, 13] on the same device, whose columns `columns.py` names; the
    result is a new uint8 [B, H, W, 3]. Nothing is random here and nothing waits for the device. A blur of sigma above
    2.44 is not supported and not looked for. ValueError where a type, shape or device does not fit.

    With boxes and size the crops are cut on the way, to the bit as
    `augment_views(crop_views(images, boxes, size, interpolation), parameters)`, without a batch of crops in memory:
    images, boxes float64 [B, 4] and interpolation are as `crop_views` takes them, the result is uint8 [B, size, size,
    3]. An image may be named more than once; or `which`, int64 [B] on a CPU, says which of N images each view is of.

    >>> from vitkiln.kernels.augment_views import columns
    >>> row = torch.from_numpy(columns.identity())[None]
    >>> row[0, columns.GRAY] = 1
    >>> augment_views(torch.tensor([[[[200, 100, 50]]]], dtype=torch.uint8), row).tolist()
    [[[[124, 124, 124]]]]
    >>> image = torch.tensor([[[0, 80, 8], [100, 90, 8]]], dtype=torch.uint8)
    >>> augment_views([image], row, torch.tensor([[0.5, 0, 1.5, 1]], dtype=torch.float64), 1).tolist()
    [[[[66, 66, 66]]]]
    """
    if boxes is None:
        without_boxes(size, interpolation, which)
        return of_views(images, parameters)
    if size is None:
        raise refusal("size", size, "1 or more pixels, as there are boxes")
    if which is not None and (which.dtype != torch.int64 or which.dim() != 1 or which.device.type != "cpu"):
        raise refusal("which", which, "int64 [B] on cpu")
    given = asked.checked(images, boxes, size, interpolation, which)
    check_parameters(parameters, boxes.shape[0], given[0])
    return augment_boxes(given, which, boxes, size, interpolation, parameters, implementation())


def of_views(images: Tensor | Sequence[Tensor], parameters: Tensor) -> Tensor:
    """Views that are cut already."""
    if not isinstance(images, Tensor):
        raise refusal("images", type(images), "a tensor, as there are no boxes")
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise refusal("images", images, "uint8 [B, H, W, 3] of one pixel or more")
    check_parameters(parameters, images.shape[0], images)
    chosen = implementation()
    return reference.augment_views(images, parameters) if chosen == "reference" else augment(images, parameters, chosen)


def without_boxes(size: int | None, interpolation: str, which: Tensor | None) -> None:
    """ValueError for what would do nothing."""
    if size is not None:
        raise refusal("size", size, "None, as there are no boxes")
    if which is not None:
        raise refusal("which", which, "None, as there are no boxes")
    if interpolation != "bilinear":
        raise refusal("interpolation", interpolation, "left out, as there are no boxes")


def check_parameters(parameters: Tensor, count: int, images: Tensor) -> None:
    """ValueError unless there is a row for each view, where the images are."""
    if parameters.dtype != torch.float32 or parameters.shape != (count, columns.COUNT):
        raise refusal("parameters", parameters, f"float32 [{count}, {columns.COUNT}]")
    beside("parameters", parameters, "images", images)


def implementation() -> str:
    """What `use` asks for, or native code."""
    wish = choose("augment_views", "it has no Triton kernel", expected=False)
    return wish if wish == "reference" or forced("augment_views") == "torch" else "native"
