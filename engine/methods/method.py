"""The contract between a paper and the engine."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import plans
from ..settings import Encoder, Section
from ..vit import ViT
from ..vocabulary import Batch, Losses, Moment, Plan, View


class Method(nn.Module):
    """What a pretext method says: the views it wants, its losses, what follows an update, and what is exported.

    A method is the file `methods/<name>.py` with one subclass of this, its settings `settings/<name>.py`, and a
    recipe. A method outside this package is named by its dotted module, which holds both classes.
    """

    spreads: ClassVar[bool] = False  # whether a run tells how evenly features use their directions, before and after

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

    def learner(self) -> ViT:
        """The encoder that gradients reach: its rates may decay from layer to layer."""
        return self.backbone()

    def before_step(self, now: Moment) -> None:
        """Comes before the forward pass of every step: temperatures and momenta that change with time.

        What a step reads of them lies in tensors (buffers), filled here. With `run.cuda_graph` the forward pass and
        `after_backward` are code that runs only when a step is recorded: a number or flag of the method that changes
        makes the step be recorded anew, so that flags may change now and then, numbers not.
        """

    def after_backward(self) -> None:
        """Gradients are complete, weights have not moved. Part of the step, as `forward` is."""

    def teachers(self) -> dict[Tensor, Tensor]:
        """From each weight to the one that follows it as its moving average; none unless there is a teacher."""
        return {}

    def pull(self, coming: Moment) -> float:
        """1 - momentum: the share of the way that teachers go with the update before this moment."""
        return 0.0

    def after_step(self, coming: Moment) -> None:
        """Follows an update, on the host; `coming` is the moment of the step to come."""

    def classifies(self) -> bool:
        """Whether `predict` tells classes."""
        return type(self).predict is not Method.predict

    def predict(self, images: Tensor) -> Tensor | None:
        """Logits [B, C] of clean uint8 images [B, H, W, 3], or None where the method has no classifier."""
        return None

    def negatives(self, batch_size: int) -> int | None:
        """Negatives of one anchor at this global batch size, or None where there is no such thing."""
        return None

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What the method looks at, as named uint8 pictures [H, W, 3], for the run folder."""
        return {"views": sheet([view[:8] for view in batch.views])}


class Base(Method):
    """A method over which DILEMMA can be laid: it takes its student's tokens, however the student came by them."""

    student: ClassVar[int] = 2  # how many of the views, the first ones, the student may see in part
    encoder: ViT  # the student's

    def branches(self, batch: Batch) -> Tensor | None:
        """Drop path of those views: [student * B, depth, 2]"""
        depth, rate = len(self.encoder.blocks), self.encoder.settings.drop_path
        return plans.branches(batch, depth, rate, self.student)

    def losses(self, batch: Batch, tokens: Tensor, plan: Plan) -> Losses:
        """The paper, from the student's tokens [student * B, prefix + K, D], the first view's above the second's.

        Row 0 is the class token; where nothing else is read, `tokens` may hold that row alone.
        """
        raise NotImplementedError

    def learner(self) -> ViT:
        return self.encoder

    def backbone(self) -> ViT:
        return self.encoder


def sheet(rows: list[Tensor]) -> Tensor:
    """Images uint8 [B, H, W, 3] of each row side by side, the rows under each other."""
    width = max(row.shape[0] * row.shape[2] for row in rows)
    lines = [row.permute(1, 0, 2, 3).flatten(1, 2) for row in rows]  # [H, B * W, 3]
    return torch.cat([torch.nn.functional.pad(line, (0, 0, 0, width - line.shape[1])) for line in lines])
