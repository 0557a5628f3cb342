"""GMML (Atito et al.; arXiv:2205.14986): groups of patches show noise or another image; what was there before?

As published: two crops of an image, lightly coloured, are two images by themselves. In each, rectangles are covered
until a share of the pixels is: by noise, or (half of the images) by what another image of the batch has there. All
tokens pass the encoder, there is no mask token; the mean of the streams after blocks 6, 8, 10 and 12, normalised, is
decoded token by token. The loss is the mean error of corrupted pixels over all images of a rank.

Three things differ from the official code. Random numbers follow from seed, step, sample and view, and a mask that
cannot reach its share otherwise is completed, where the official loop never ends. Unless `eight_bit` is off, corrupted
images stay in 8 bits, so noise is rounded and cut at black and white. And positions of small crops are interpolated
with antialiasing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vitkiln import kernels

from .. import plans
from ..decoder import PixelHead, image_of, painted
from ..settings import Encoder
from ..settings.gmml import Settings
from ..vit import EVERYTHING, ViT, build
from ..vocabulary import Batch, Losses, View
from .method import Method, sheet

LARGE = 2  # crops of full size
CHOICES = 8  # the stream of random numbers that choose what becomes of an image; `kernels.uniform`


class Crops(NamedTuple):
    """Crops of one size, one view below the other: N = V * B rows."""

    images: Tensor  # uint8 [N, H, W, 3]
    numbers: Tensor  # int64 [N]: of each view of each sample
    branches: Tensor | None  # [N, depth, 2]: drop path


class GMML(Method):
    """loss = mean over corrupted pixels and channels of |prediction - (x - mean) / std|

    Of large crops, and the same of small ones added where there are any.
    """

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.encoder = build(encoder)
        self.decoded = settings.decoded(len(self.encoder.blocks))
        self.head = PixelHead(self.encoder.width, encoder.patch_size)

    def views(self) -> tuple[View, ...]:
        s = self.settings
        large, small = (self.encoder.settings.image_size, s.global_scale), (s.local_size, s.local_scale)
        return tuple(
            View(
                size=size,
                scale=scale,
                interpolation="bicubic",
                jitter=s.jitter,
                jitter_probability=s.jitter_probability,
                gray=0.0,
                blur=s.blur,
            )
            for size, scale in [large] * LARGE + [small] * s.local_crops
        )

    def forward(self, batch: Batch) -> Losses:
        losses = Losses()
        for size, crops in zip(("", "small_"), self.crops(batch), strict=False):
            corrupted, mask = self.corrupt(crops, batch)
            prediction = self.reconstruct(corrupted, crops.branches)
            losses.terms[f"{size}reconstruction"] = self.error(prediction, crops.images, mask)
            losses.metrics[f"{size}corrupted"] = mask.sum() / mask.numel()
        return losses

    def crops(self, batch: Batch) -> Iterator[Crops]:
        """The large crops, then the small ones if there are any."""
        depth, rate = len(self.encoder.blocks), self.encoder.settings.drop_path
        numbers, branches = plans.numbers(batch), plans.branches(batch, depth, rate)
        end = LARGE * len(batch.ids)
        for views, rows in ((batch.views[:LARGE], slice(end)), (batch.views[LARGE:], slice(end, None))):
            if views:
                yield Crops(torch.cat(views), numbers[rows], None if branches is None else branches[rows])

    def corrupt(self, crops: Crops, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images [N, H, W, 3] whose groups show something else, and which pixels those are: bool [N, H, W]

        Images are uint8, or fp32 where noise shall not be cut.
        """
        s, own = self.settings, self.encoder.settings
        images, numbers, _ = crops
        replaced, target, partner = self.fate(numbers, len(batch.ids), batch.seed)
        size = images.shape[1], images.shape[2]
        bitmap, mask = kernels.group_mask(batch.seed, numbers, size, target, s.unit(own), anchor=s.anchor)
        partner = torch.where(replaced, partner, -1)
        images = images if s.eight_bit else images / 255
        return kernels.corrupt_groups(images, bitmap, s.drop, partner, batch.seed, numbers, own.mean, own.std), mask

    def fate(self, numbers: Tensor, batch_size: int, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each crop [N]: whether another image shows through, the share to be covered, and the row of the other.

        That is any of the same view, itself not excepted.
        """
        s = self.settings
        choice, share, other = kernels.uniform(seed, numbers, 3, CHOICES).unbind(1)
        replaced, least = choice < s.replace_probability, min(0.5, s.drop_share)
        target = torch.where(replaced, s.replace_share, least + (s.drop_share - least) * share)
        first = torch.arange(len(numbers), device=numbers.device) // batch_size * batch_size
        return replaced, target, first + (other * batch_size).long().clamp(max=batch_size - 1)

    def reconstruct(self, images: Tensor, branches: Tensor | None = None) -> Tensor:
        """Normalised pixels of every patch [N, P, p * p * 3], from the fused streams of several blocks."""
        streams = self.encoder.layers(images, self.decoded, EVERYTHING, branches)
        fused = torch.stack([stream[:, self.encoder.prefix :] for stream in streams]).mean(0)
        return self.head(self.encoder.norm(fused))

    def error(self, prediction: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """The mean over all images' corrupted pixels, or over all pixels."""
        counted = mask if self.settings.only_corrupted else torch.ones_like(mask)
        mean, std = self.encoder.settings.mean, self.encoder.settings.std
        return kernels.masked_l1(prediction, images, counted, mean, std)

    def backbone(self) -> ViT:
        return self.encoder

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The first crops, what the encoder sees of them, what is made of that, and in white what was hidden."""
        count, own = len(batch.ids), self.encoder.settings
        crops = Crops(batch.views[0], plans.numbers(batch)[:count], None)
        corrupted, mask = self.corrupt(crops, batch)
        guessed = painted(self.reconstruct(corrupted), own.mean, own.std)
        whole = image_of(guessed, corrupted.shape[1] // own.patch_size, own.patch_size)
        white = mask[..., None].expand_as(whole).to(torch.uint8) * 255
        seen = corrupted if self.settings.eight_bit else (corrupted * 255).round().clamp(0, 255).to(torch.uint8)
        return {"reconstruction": sheet([row[:8] for row in (crops.images, seen, whole, white)])}
