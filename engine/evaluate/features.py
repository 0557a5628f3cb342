"""Features of still images: the class token after the last norm, dense tokens, right places, full precision."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.source import Source
from ..data.still import stills
from ..vit import ViT


@torch.inference_mode()
def features(
    encoder: ViT, source: Source, *, batch_size: int, workers: int, limit: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Class tokens [N, D] and labels [N] of at most `limit` images, on the CPU, in the encoder's own precision."""
    was_training = encoder.training
    encoder.eval()
    rows, labels = [], []
    images = stills(source, encoder.settings.image_size, batch_size=batch_size, workers=workers, limit=limit, seed=0)
    for pixels, targets in images:
        rows.append(encoder.class_token(pixels.to(device)).float().cpu())
        labels.append(targets)
    encoder.train(was_training)
    return torch.cat(rows), torch.cat(labels)
