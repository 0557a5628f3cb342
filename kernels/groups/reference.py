"""What covering groups, showing something else there and predicting them mean, in plain PyTorch."""

from collections.abc import Sequence
from math import tau

import torch
from torch import Tensor

from .._shared.philox import NOISE, bits, fraction
from .bitmap import pack
from .rule import Rule, blocks, needed_units, random_words, unit_order

Floats = Sequence[float] | None


def group_mask(seed: Tensor, sample_ids: Tensor, target: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Block after block is covered, then unit after unit, until as many are as the target asks for."""
    drawn = random_words(seed, sample_ids, rule)
    covered = torch.zeros(len(sample_ids), *rule.grid, dtype=torch.bool, device=sample_ids.device)
    order, corners, needed = unit_order(drawn, rule), torch.stack(blocks(drawn, rule), -1), needed_units(target, rule)
    for image, count, some, units in zip(covered, needed.tolist(), corners.tolist(), order.tolist(), strict=True):
        for top, bottom, left, right in some:
            if image.sum() >= count:
                break
            image[top:bottom, left:right] = True
        for unit in units:
            if image.sum() >= count:
                break
            image.view(-1)[unit] = True
    mask = covered.repeat_interleave(rule.align, 1).repeat_interleave(rule.align, 2)
    return pack(mask), mask


def noise(seed: Tensor, sample_ids: Tensor, count: int) -> Tensor:
    """Normal numbers [B, count], two of every two 24-bit numbers (Box and Muller, 1958): r cos a, r sin a

    r = sqrt(-2 log u), u in (0, 1] from the first number, a = 2 pi v, v in [0, 1) from the second.
    """
    even = count + count % 2
    drawn = bits(seed, sample_ids, (even, NOISE))[0].view(-1, even // 2, 2)
    radius = (fraction(drawn[..., 0] + 1).log() * -2).sqrt()
    angle = fraction(drawn[..., 1]) * tau
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)[:, :count]


def corrupt_groups(
    images: Tensor,
    mask: Tensor,
    source: str | Tensor,
    partner: Tensor | None,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    mean: Floats,
    std: Floats,
) -> Tensor:
    """Covered pixels show the source, or where there is one the partner's; the mask is bool [B, H, W]."""
    shown = source if isinstance(source, Tensor) else filling(images, source, seed, sample_ids, mean, std)
    if partner is not None:
        shown = torch.where((partner >= 0)[:, None, None, None], images[partner.clamp(min=0)], shown)
    return torch.where(mask[..., None], shown, images)


def filling(
    images: Tensor, source: str, seed: Tensor | None, sample_ids: Tensor | None, mean: Floats, std: Floats
) -> Tensor:
    """mean + std * noise, or the mean; as images are, so of 0 .. 255 if they are uint8."""
    center, scale = (images.new_tensor(v or d, dtype=torch.float32) for v, d in ((mean, (0,) * 3), (std, (1,) * 3)))
    shown = center.expand(images.shape)
    if source == "noise":
        assert seed is not None
        assert sample_ids is not None
        shown = center + scale * noise(seed, sample_ids, images[0].numel()).view(images.shape)
    if images.dtype == torch.uint8:
        shown = (shown * 255 + 0.5).floor().clamp(0, 255)
    return shown.to(images.dtype)


def masked_l1(prediction: Tensor, images: Tensor, mask: Tensor, mean: Floats, std: Floats) -> Tensor:
    """sum over covered pixels and channels of |prediction - (x - mean) / std| / (3 * covered pixels)"""
    wide = torch.promote_types(prediction.dtype, torch.float32)
    pixels = images.to(wide) / 255 if images.dtype == torch.uint8 else images.to(wide)
    if mean is not None and std is not None:
        pixels = (pixels - pixels.new_tensor(mean)) / pixels.new_tensor(std)
    size = round((prediction.shape[2] / 3) ** 0.5)
    error = prediction.to(wide) - patches(pixels, size)
    counted = patches(mask[..., None].expand(images.shape), size)
    return torch.where(counted, error, 0).abs().sum() / (3 * mask.sum()).clamp(min=1)


def patches(pixels: Tensor, size: int) -> Tensor:
    """[B, H, W, C] -> [B, P, size * size * C] in the order row, column, channel"""
    batch, height, width, channels = pixels.shape
    grid = pixels.reshape(batch, height // size, size, width // size, size, channels)
    return grid.transpose(2, 3).reshape(batch, -1, size * size * channels)
