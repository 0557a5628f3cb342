"""What RandAugment of a batch means, in plain PyTorch: Pillow's operations, with its rounding to 8 bits after each."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from . import columns, tone
from .move import move

SELECTING = frozenset({"cpu"})  # devices that pick the rows to compute; elsewhere that would wait for their number
Change = Callable[[Tensor, Tensor], Tensor]
TONES: tuple[tuple[int, Change], ...] = (
    (columns.AUTO_CONTRAST, tone.auto_contrast),
    (columns.EQUALIZE, tone.equalize),
    (columns.INVERT, tone.invert),
    (columns.POSTERIZE, tone.posterize),
    (columns.SOLARIZE, tone.solarize),
    (columns.SOLARIZE_ADD, tone.solarize_add),
    (columns.COLOR, tone.color),
    (columns.CONTRAST, tone.contrast),
    (columns.BRIGHTNESS, tone.brightness),
    (columns.SHARPNESS, tone.sharpness),
    (columns.MIRROR, lambda pixels, numbers: pixels.flip(3)),
    (columns.UPSIDE_DOWN, lambda pixels, numbers: pixels.flip(2)),
)


def rand_augment(images: Tensor, operations: Tensor, fill: Sequence[int], interpolation: str) -> Tensor:
    """Each image changed by the operations of its rows, one after the other

    images uint8 [B, H, W, 3], operations float64 [B, L, 7], interpolation bilinear or bicubic -> uint8 [B, H, W, 3]

    >>> image = torch.tensor([[[[0, 0, 0], [9, 9, 9]]]], dtype=torch.uint8)
    >>> rows = torch.stack([torch.from_numpy(columns.row(kind)) for kind in (columns.MIRROR, columns.INVERT)])[None]
    >>> rand_augment(image, rows, (0, 0, 0), "bilinear")[0, 0, :, 0].tolist()
    [246, 255]
    """
    pixels = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    colour = torch.cat([pixels.new_full((1, 1, 1), value) for value in fill])
    moved = partial(move, fill=colour, cubic=interpolation == "bicubic")
    for rows in operations.unbind(1):
        kind, numbers = rows[:, columns.KIND], rows[:, columns.NUMBERS]
        is_move = torch.stack([kind == number for number in columns.MOVES]).any(0)
        chosen: list[tuple[Tensor, Change]] = [(is_move, moved)]
        chosen += [(kind == number, change) for number, change in TONES]
        pixels = changed(pixels, numbers, chosen)
    return pixels.permute(0, 2, 3, 1).contiguous()


def changed(pixels: Tensor, numbers: Tensor, chosen: Sequence[tuple[Tensor, Change]]) -> Tensor:
    """Each image by the one change that it chose. A CPU computes only that; a GPU all, and so waits for no count."""
    result = pixels.clone()
    for images, change in chosen:
        if pixels.device.type not in SELECTING:
            result = torch.where(images[:, None, None, None], change(pixels, numbers), result)
        elif len(rows := images.nonzero().flatten()):
            result[rows] = change(pixels[rows], numbers[rows])
    return result
