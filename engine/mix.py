"""Images mixed with each other and partly erased, on the device, by random numbers that a restart does not change.

Nothing here waits for the device: what is drawn stays in tensors, and every image is computed in every way that it
might have to be. Pixels become floats in [0, 1], as `kernels.patch_embed` takes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vitkiln import kernels

MIXTURE, ERASURE, NOISE = 1, 2, 3  # streams of random numbers; 0 is drop path's
TRIES = 10
AREAS = 0.02, 1 / 3
ASPECTS = 0.3, 1 / 0.3  # height over width
KNOTS = 4096


class Mixing(nn.Module):
    """mixup (Zhang et al., arXiv:1710.09412) or cutmix (Yun et al., arXiv:1905.04899) of a batch with its neighbours.

    out = l * image + (1 - l) * partner, or the partner's pixels in a box of share 1 - l; either way the target is
    l * y + (1 - l) * y of the partner, y = 1 - s + s/C for the label and s/C for the others. One l of Beta(a, a) for
    the whole step, cutmix with probability `switch` where both are on; its l is what is left outside of the box.

    As timm mixes in batch mode, but the partner of sample 2i is 2i + 1 and not its mirror image in the batch: batches
    being shuffled that is the same in distribution, and no part of a step depends on how many ranks and micro-batches
    share it, as long as each has an even number of images. The last image of an odd batch is its own partner.
    """

    tables: Tensor  # of the quantiles of both: [2, KNOTS + 1]

    def __init__(self, classes: int, mixup: float, cutmix: float, probability: float, switch: float, smoothing: float):
        super().__init__()
        self.classes, self.smoothing = classes, smoothing
        self.alphas = mixup or 1.0, cutmix or 1.0  # where one is off it is never chosen
        self.probability = probability if mixup or cutmix else 0.0
        self.switch = switch if mixup and cutmix else float(cutmix > 0)
        self.register_buffer("tables", torch.stack([beta_quantiles(alpha) for alpha in self.alphas]), persistent=False)

    def forward(self, images: Tensor, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """images uint8 or float [B, H, W, 3], labels int64 [B], seed int64 [2] -> images, targets float [B, C]"""
        targets = smoothed(labels, self.classes, self.smoothing)
        if self.probability == 0:
            return images, targets
        partner = neighbours(labels)
        kept, share = self.drawn(seed, *images.shape[1:3])
        pixels = as_floats(images)
        return torch.lerp(pixels[partner], pixels, kept[..., None]), torch.lerp(targets[partner], targets, share)

    def drawn(self, seed: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """How much of itself an image keeps, in each pixel [H, W] and altogether []."""
        whether, which, share, y, x = kernels.uniform(seed, seed.new_zeros(1), 5, MIXTURE)[0].unbind()
        mixup, cutmix = (beta(share, *pair) for pair in zip(self.tables, self.alphas, strict=True))
        cut = which < self.switch
        share = torch.where(whether < self.probability, torch.where(cut, cutmix, mixup), 1.0)
        outside = ~(box(share, y, height)[:, None] & box(share, x, width))
        kept = torch.where(cut, outside.float(), share)
        return kept, kept.mean()


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """1 - s + s/C for the label, s/C elsewhere: [B, C]

    >>> smoothed(torch.tensor([1]), 4, 0.1).tolist()[0]
    [0.02500000037252903, 0.925000011920929, 0.02500000037252903, 0.02500000037252903]
    """
    off = smoothing / classes
    rows = torch.full((len(labels), classes), off, device=labels.device)
    return rows.scatter_(1, labels[:, None], 1 - smoothing + off)


def neighbours(labels: Tensor) -> Tensor:
    """1, 0, 3, 2, ...; the last of an odd number is its own: [B]"""
    here = torch.arange(len(labels), device=labels.device)
    return (here ^ 1).clamp(max=len(labels) - 1)


def box(share: Tensor, centre: Tensor, side: int) -> Tensor:
    """Where along one side the box of area 1 - share lies, cut off at the image's edges: bool [side]"""
    length = (side * (1 - share).sqrt()).floor()
    middle = (centre * side).floor().clamp(max=side - 1)
    place = torch.arange(side, device=share.device)
    return (place >= middle - (length / 2).floor()) & (place < middle + ((length + 1) / 2).floor())


def erased(images: Tensor, seed: Tensor, ids: Tensor, probability: float, mean: Tensor, std: Tensor) -> Tensor:
    """Random erasing (Zhong et al., arXiv:1708.04896): some images get a rectangle of noise, float [B, H, W, 3].

    The rectangle has 2 % to a third of the area and a height of 0.3 to 1 / 0.3 widths; of ten such the first that is
    smaller than the image is taken. Normalised by mean and std [3] the noise is N(0, 1) in each value of each pixel,
    so that here, before, it is mean + std * N(0, 1), which may leave [0, 1]. All of it is a function of (seed, sample
    id): each image reads the step's noise from a place of its own. images uint8 or float, ids int64 [B].
    """
    if probability == 0:
        return images
    count, height, width, _ = images.shape
    numbers = kernels.uniform(seed, ids, 4 + 4 * TRIES, ERASURE)
    inside = rectangle(numbers[:, 4:].view(count, TRIES, 4), height, width) & (numbers[:, :1, None] < probability)
    values = 3 * height * width
    start = (numbers[:, 1] * values).long()
    noise = normal(kernels.uniform(seed, seed.new_zeros(1), 2 * values, NOISE)[0])
    noise = noise.unfold(0, values, 1)[start].view(count, height, width, 3)
    return torch.where(inside[..., None], noise * std + mean, as_floats(images))


def rectangle(numbers: Tensor, height: int, width: int) -> Tensor:
    """The first of some random rectangles that fits, none where none does: [B, tries, 4] -> bool [B, height, width]"""
    share, shape, y, x = numbers.unbind(2)  # [B, tries] each
    area = (AREAS[0] + share * (AREAS[1] - AREAS[0])) * (height * width)
    low, high = map(math.log, ASPECTS)
    aspect = (low + shape * (high - low)).exp()
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    top, left = placed(y, height - tall), placed(x, width - wide)
    top, left, tall, wide = (part.gather(1, first) for part in (top, left, tall, wide))
    rows, columns = within(top, top + tall, height), within(left, left + wide, width)
    return rows[:, :, None] & columns[:, None] & fits.any(1)[:, None, None]


def placed(uniform: Tensor, room: Tensor) -> Tensor:
    """A whole number from 0 to room."""
    return torch.minimum((uniform * (room + 1)).floor(), room)


def within(first: Tensor, end: Tensor, side: int) -> Tensor:
    """Places along a side, [B, 1] and [B, 1] -> bool [B, side]"""
    place = torch.arange(side, device=first.device)
    return (place >= first) & (place < end)


def normal(uniform: Tensor) -> Tensor:
    """The quantiles of N(0, 1) at uniform numbers of 24 bits, each taken in the middle of its step: always finite."""
    return math.sqrt(2) * torch.erfinv(2 * ((uniform - 0.5) + 2.0**-25))


def beta_quantiles(alpha: float, knots: int = KNOTS) -> Tensor:
    """x^alpha for the quantiles x of Beta(alpha, alpha) at 0, ..., 1/2, evenly: float32 [knots + 1]

    F = integral of (x (1 - x))^(alpha - 1) dx = integral of (1 - x)^(alpha - 1) dt / alpha with t = x^alpha, which has
    no pole and nearly is a line near 0, so that it is t that is interpolated; x itself has an infinite slope there.
    """
    x = torch.linspace(0, 0.5, 64 * knots + 1, dtype=torch.float64)
    t = x**alpha
    density = (1 - x) ** (alpha - 1)
    mass = torch.cat([t.new_zeros(1), ((density[1:] + density[:-1]) / 2 * t.diff()).cumsum(0)])
    wanted = torch.linspace(0, 1, knots + 1, dtype=torch.float64) * mass[-1]
    after = torch.searchsorted(mass, wanted).clamp(1, len(t) - 1)
    part = (wanted - mass[after - 1]) / (mass[after] - mass[after - 1])
    return torch.lerp(t[after - 1], t[after], part).float()


def beta(uniform: Tensor, table: Tensor, alpha: float) -> Tensor:
    """The quantile of Beta(alpha, alpha), by a table of `beta_quantiles`; symmetric about 1/2."""
    knots = len(table) - 1
    place = 2 * torch.minimum(uniform, 1 - uniform) * knots
    below = place.long().clamp(max=knots - 1)
    first, second = table.take(below), table.take(below + 1)  # an index of no dimensions would be waited for
    half = torch.lerp(first, second, place - below) ** (1 / alpha)
    return torch.where(uniform < 0.5, half, 1 - half)


def as_floats(images: Tensor) -> Tensor:
    """In [0, 1]: as `kernels.patch_embed` takes uint8, or as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
