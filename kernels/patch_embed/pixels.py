"""Where a patch's pixels lie in memory, and how their normalisation moves into the weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Triple = Sequence[float]


class Scaling(NamedTuple):
    """normalised = scale * (factor * pixel - centre) + rest, channel by channel."""

    factor: float
    centre: Triple
    scale: Triple
    rest: Triple


def scaling(dtype: torch.dtype, mean: Triple | None, std: Triple | None) -> Scaling:
    """uint8 is centred on the whole number next to its mean and divided by 64: exact in every float type.

    >>> scaling(torch.uint8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).centre[0] * 64
    128.0
    """
    mean, std = mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0)
    if dtype != torch.uint8:
        return Scaling(1.0, mean, [1 / s for s in std], (0.0, 0.0, 0.0))
    whole = [round(255 * m) for m in mean]
    rest = [(w / 255 - m) / s for w, m, s in zip(whole, mean, std, strict=True)]
    return Scaling(1 / 64, [w / 64 for w in whole], [64 / 255 / s for s in std], rest)


@dataclass(frozen=True)
class Patches:
    """Images as lines of adjacent values, each within one patch. C values a patch: 3 * size * size."""

    lines: Tensor  # [B * planes * H * columns, values of a line]
    planes: int  # 1 where the three values of a pixel are adjacent, else 3
    batch: int
    rows: int
    columns: int
    size: int
    scaling: Scaling

    @classmethod
    def of(cls, images: Tensor, size: int, mean: Triple | None, std: Triple | None) -> "Patches":
        """Without a copy for either layout in memory; other strides are made contiguous first."""
        last = images if images.shape[-1] == 3 else images.permute(0, 2, 3, 1)
        planes = 1 if images.shape[-1] == 3 or last.is_contiguous() else 3
        batch, height, width, _ = last.shape
        shape = batch * planes * height * (width // size), 3 * size // planes
        values = (last if planes == 1 else images).reshape(shape)
        return cls(values, planes, batch, height // size, width // size, size, scaling(images.dtype, mean, std))

    def index(self, keep: Tensor | None) -> Tensor:
        """The lines of each kept patch: [B, K, planes, size]"""
        image, plane, line = (torch.arange(n, device=self.lines.device) for n in (self.batch, self.planes, self.size))
        if keep is None:
            keep = torch.arange(self.rows * self.columns, device=image.device).expand(self.batch, -1)
        row, column = (part[..., None, None] for part in (keep // self.columns, keep % self.columns))
        start = (image[:, None, None, None] * self.planes + plane[:, None]) * self.rows + row
        return (start * self.size + line) * self.columns + column

    def gather(self, keep: Tensor | None, prefix: int, dtype: torch.dtype) -> Tensor:
        """`prefix` rows of zeros, then the kept patches, centred but not scaled: [B, prefix + K, C]"""
        index = self.index(keep)
        raw = self.lines.index_select(0, index.flatten()).view(*index.shape[:2], 3 * self.size**2)
        out = raw.new_empty(self.batch, prefix + raw.shape[1], raw.shape[2], dtype=dtype)
        out[:, :prefix] = 0
        centre = self.spread([-c for c in self.scaling.centre], out)
        torch.add(centre, raw, alpha=self.scaling.factor, out=out[:, prefix:])
        return out

    def spread(self, values: Triple, like: Tensor) -> Tensor:
        """A number a channel, for every value of a patch: [C], filled on the device and not copied to it."""
        each = torch.stack([like.new_full((), value) for value in values])
        return each.repeat(self.size**2) if self.planes == 1 else each.repeat_interleave(self.size**2)

    def matrix(self, weight: Tensor) -> Tensor:
        """weight [D, 3, size, size] -> [D, C], its columns in the order of a patch's values."""
        return weight.permute(0, 2, 3, 1).flatten(1) if self.planes == 1 else weight.flatten(1)

    def weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        if self.planes == 3:
            return matrix.view(-1, 3, self.size, self.size)
        return matrix.view(-1, self.size, self.size, 3).permute(0, 3, 1, 2).contiguous()

    def image(self, lines: Tensor, shape: torch.Size) -> Tensor:
        """Lines [.., values of a line] as images of the given shape, contiguous."""
        if self.planes == 3 or shape[-1] == 3:
            return lines.view(shape)
        batch, channels, height, width = shape
        return lines.view(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()
