"""What embedding patches means, in plain PyTorch: embed all, then drop."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    position: Tensor,
    cls_token: Tensor,
    keep: Tensor | None = None,
    place: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """out[b] = cls_token rows, then weight . patch[keep[b, k]] + bias + position[place[b, k]]

    >>> image, weight = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), torch.ones(1, 3, 1, 1)
    >>> position, keep = torch.tensor([[0.0], [10.0], [20.0], [30.0]]), torch.tensor([[2, 0]])
    >>> patch_embed(image, weight, None, position, torch.zeros(1), keep).flatten().tolist()
    [0.0, 23.0, 3.0]
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    pixels = images.to(wide) / 255 if images.dtype == torch.uint8 else images.to(wide)
    if images.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    if mean is not None and std is not None:
        pixels = (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]
    tokens = F.conv2d(pixels, weight.to(wide), stride=weight.shape[2]).flatten(2).mT  # [B, P, D]
    if keep is None:
        keep = torch.arange(tokens.shape[1], device=images.device).expand(len(images), -1)
    kept = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))
    rows = position.to(wide) if bias is None else position.to(wide) + bias.to(wide)
    prefix = cls_token.to(wide).view(-1, weight.shape[0]).expand(len(images), -1, -1)
    return torch.cat([prefix, kept + rows[keep if place is None else place]], 1).to(weight.dtype)
