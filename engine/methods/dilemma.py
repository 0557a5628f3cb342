"""DILEMMA (Sameni, Jenni, Favaro; arXiv:2204.04788): which tokens were told a wrong place?

The student sees a random subset of patches, some of them with the position of a patch that was dropped, and must say
which. The detection term joins the loss of a base method, whose teacher, if it has one, sees every patch at its
place. Over DINO the two large crops are seen in part and the small ones whole; over SimCLR both views are seen in
part; over MAE the encoder is misled and the decoder is not.

The published code cannot run as released: its encoder takes no frozen patch projection and never receives the plan,
its position gather fails for more than one image, and its dense branch compares the number of kept tokens with the
number of channels, so that every "wrong" place is the right one. This file follows the paper. With everything kept,
the wrong places come from a cyclic shift of the kept ones, not from a reversal, which leaves the middle token where
it was.
"""

from typing import cast

import torch
from torch import Tensor, nn

from vitkiln import kernels

from .. import plans
from ..settings import Encoder
from ..settings.dilemma import Detection
from ..settings.sections import kept
from ..vit import ViT
from ..vocabulary import Batch, Losses, Moment, Plan, View
from . import find
from .method import Base, Method, sheet


class Dilemma(Method):
    """loss = base(student's tokens) + weight * mean over the student's views of detection(view)"""

    def __init__(self, settings: Detection, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.base = cast("Base", find(settings.base)(settings, encoder))
        self.kept = kept(encoder.patches, settings.keep)
        self.detector = nn.Linear(self.base.encoder.width, 1) if settings.wrong_probability else None

    def views(self) -> tuple[View, ...]:
        return self.base.views()

    def forward(self, batch: Batch) -> Losses:
        plan, encoder = self.plan(batch), self.base.encoder
        tokens = encoder(self.looked_at(batch), plan, self.base.branches(batch))  # [student * B, prefix + K, D]
        losses = self.base.losses(batch, tokens, plan)
        if self.detector is not None:
            self.detect(losses, self.detector, tokens[:, encoder.prefix :], plan)
        return losses

    def looked_at(self, batch: Batch) -> Tensor:
        """The views that the student sees in part, one above the other."""
        return torch.cat(batch.views[: self.base.student])

    def plan(self, batch: Batch) -> Plan:
        patches, wrong = self.base.encoder.settings.patches, self.settings.wrong_probability
        return plans.misplaced(batch, patches, self.kept, wrong, self.base.student)

    def detect(self, losses: Losses, head: nn.Linear, tokens: Tensor, plan: Plan) -> None:
        """Binary cross-entropy over all kept tokens of those views, misplaced or not, with equal weight."""
        assert plan.wrong is not None
        detection, accuracy = kernels.detection_loss(tokens, head.weight[0], head.bias, plan.wrong)
        losses.terms["detection"] = self.settings.weight * detection
        losses.metrics |= {"detection_loss": detection.detach(), "detection_accuracy": accuracy}

    def learner(self) -> ViT:
        return self.base.learner()

    def backbone(self) -> ViT:
        return self.base.backbone()

    def before_step(self, now: Moment) -> None:
        self.base.before_step(now)

    def after_backward(self) -> None:
        self.base.after_backward()

    def teachers(self) -> dict[Tensor, Tensor]:
        return self.base.teachers()

    def pull(self, coming: Moment) -> float:
        return self.base.pull(coming)

    def after_step(self, coming: Moment) -> None:
        self.base.after_step(coming)

    def negatives(self, batch_size: int) -> int | None:
        return self.base.negatives(batch_size)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The base's, and what the student sees: dropped patches gray, misplaced ones under red."""
        views = batch.views[: self.base.student]
        seen = painted(torch.cat(views), self.plan(batch), self.base.encoder.settings.patch_size).chunk(len(views))
        rows = [row[:8] for pair in zip(views, seen, strict=True) for row in pair]
        return {**self.base.pictures(batch), "student": sheet(rows)}


def painted(images: Tensor, plan: Plan, size: int) -> Tensor:
    """Images uint8 [B, H, W, 3] with what the plan drops in gray and what it misplaces in red."""
    assert plan.keep is not None
    assert plan.wrong is not None
    count, height, width, _ = images.shape
    shade = torch.zeros(count, height * width // size**2, dtype=torch.uint8, device=images.device)  # 0 dropped
    shade.scatter_(1, plan.keep, 1 + plan.wrong.to(torch.uint8))  # 1 kept, 2 misplaced
    mask = shade.view(count, height // size, width // size)
    mask = mask.repeat_interleave(size, 1).repeat_interleave(size, 2)[..., None]
    red = torch.tensor([255, 0, 0], dtype=torch.uint8, device=images.device)
    return torch.where(mask == 0, 128, torch.where(mask == 2, images // 2 + red // 2, images)).to(torch.uint8)
