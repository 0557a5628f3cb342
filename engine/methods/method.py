"""The contract between a paper and the engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..settings import Encoder, Section
from ..vit import ViT
from ..vocabulary import Batch, Losses, View


class Method(nn.Module):
    """What a pretext method says: the views it wants, its losses, what follows an update, and what is exported.

    A method is the file `methods/<name>.py` with one subclass of this, its settings `settings/<name>.py`, and a
    recipe. A method outside this package is named by its dotted module, which holds both classes.
    """

    def __init__(self, settings: Section, encoder: Encoder):
        super().__init__()

    def views(self) -> tuple[View, ...]:
        """The crops that it wants of every image."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Losses:
        """The paper."""
        raise NotImplementedError

    def backbone(self) -> ViT:
        """The encoder that is evaluated and exported."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Follows an update; `progress` in [0, 1] is that of the step to come."""

    def negatives(self, batch_size: int) -> int | None:
        """Negatives of one anchor at this global batch size, or None where there is no such thing."""
        return None

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What the method looks at, as named uint8 pictures [H, W, 3], for the run folder."""
        return {"views": sheet([view[:8] for view in batch.views])}


def sheet(rows: list[Tensor]) -> Tensor:
    """Images uint8 [B, H, W, 3] of each row side by side, the rows under each other."""
    width = max(row.shape[0] * row.shape[2] for row in rows)
    lines = [row.permute(1, 0, 2, 3).flatten(1, 2) for row in rows]  # [H, B * W, 3]
    return torch.cat([torch.nn.functional.pad(line, (0, 0, 0, width - line.shape[1])) for line in lines])
