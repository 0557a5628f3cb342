"""What predicting normalised pixels costs, in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalized_pixel_mse(
    prediction: Tensor,
    images: Tensor,
    mask: Tensor,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalize: bool = True,
) -> Tensor:
    """sum over b, p of mask[b, p] * mean_i (prediction[b, p, i] - target[b, p, i])^2 / sum of mask, in fp32

    >>> image = torch.tensor([[[[0.0, 1, 2], [3, 4, 5]]]])
    >>> normalized_pixel_mse(torch.zeros(1, 2, 3), image, torch.tensor([[True, False]]), normalize=False).item()
    1.6666666269302368
    """
    wide = torch.promote_types(prediction.dtype, torch.float32)
    pixels = images.to(wide) / 255 if images.dtype == torch.uint8 else images.to(wide)
    if mean is not None and std is not None:
        pixels = (pixels - pixels.new_tensor(mean)) / pixels.new_tensor(std)
    batch, height, width, channels = images.shape
    size = round((prediction.shape[2] / channels) ** 0.5)
    grid = pixels.reshape(batch, height // size, size, width // size, size, channels)
    target = grid.transpose(2, 3).flatten(3).flatten(1, 2)  # [B, P, size * size * channels]: row, column, channel
    if normalize:
        variance, center = torch.var_mean(target, -1, keepdim=True)
        target = (target - center) / (variance + 1e-6).sqrt()
    errors = (prediction.to(wide) - target).square().mean(-1)
    return (errors * mask).sum() / mask.sum().clamp(min=1)
