"""DILEMMA (Sameni, Jenni, Favaro; arXiv:2204.04788): which tokens were told a wrong place?

The student sees a random subset of patches, some of them with the position of a patch that was dropped, and must say
which; the teacher sees every patch at its place. The detection term joins the loss of a base method.

The published code cannot run as released: its encoder takes no frozen patch projection and never receives the plan,
its position gather fails for more than one image, and its dense branch compares the number of kept tokens with the
number of channels, so that every "wrong" place is the right one. This file follows the paper. With everything kept,
the wrong places come from a cyclic shift of the kept ones, not from a reversal, which leaves the middle token where
it was.
"""

import torch
from torch import Tensor, nn

from vitkiln import kernels

from .. import plans
from ..settings import Encoder
from ..settings.dilemma import Settings
from ..settings.sections import kept
from ..vit import ViT
from ..vocabulary import Batch, Losses, Plan, View
from .method import Method, sheet
from .mocov3 import MoCoV3


class Dilemma(Method):
    """loss = base(student class tokens) + weight * (detection(view 1) + detection(view 2)) / 2"""

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.base = MoCoV3(settings, encoder)
        self.kept = kept(encoder.patches, settings.keep)
        self.detector = nn.Linear(self.base.encoder.width, 1) if settings.wrong_probability else None

    def views(self) -> tuple[View, ...]:
        return self.base.views()

    def forward(self, batch: Batch) -> Losses:
        drawn = [self.plan(batch, view) for view in range(len(batch.views))]
        tokens = [
            self.base.encoder(images, plan, self.base.branches(batch, view))
            for view, (images, plan) in enumerate(zip(batch.views, drawn, strict=True))
        ]
        losses = self.base.losses(batch, [seen[:, 0] for seen in tokens])
        if self.detector is not None:
            self.detect(losses, self.detector, tokens, drawn)
        return losses

    def plan(self, batch: Batch, view: int) -> Plan:
        patches = self.base.encoder.settings.patches
        return plans.misplaced(batch, view, patches, self.kept, self.settings.wrong_probability)

    def detect(self, losses: Losses, head: nn.Linear, tokens: list[Tensor], drawn: list[Plan]) -> None:
        """Binary cross-entropy over all kept tokens, misplaced or not, with equal weight."""
        prefix = self.base.encoder.prefix
        found = [
            kernels.detection_loss(seen[:, prefix:], head.weight[0], head.bias, plan.wrong)
            for seen, plan in zip(tokens, drawn, strict=True)
            if plan.wrong is not None
        ]
        detection = torch.stack([loss for loss, _ in found]).mean()
        losses.terms["detection"] = self.settings.weight * detection
        losses.metrics["detection_loss"] = detection.detach()
        losses.metrics["detection_accuracy"] = torch.stack([accuracy for _, accuracy in found]).mean()

    def backbone(self) -> ViT:
        return self.base.encoder

    def after_step(self, progress: float) -> None:
        self.base.after_step(progress)

    def negatives(self, batch_size: int) -> int | None:
        return self.base.negatives(batch_size)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The views, and what the student sees of them: dropped patches gray, misplaced ones under red."""
        size = self.base.encoder.settings.patch_size
        rows = []
        for index, images in enumerate(batch.views):
            plan = self.plan(batch, index)
            rows += [images[:8], painted(images[:8], plan, size)]
        return {"views": sheet(rows)}


def painted(images: Tensor, plan: Plan, size: int) -> Tensor:
    """Images uint8 [B, H, W, 3] with what the plan drops in gray and what it misplaces in red."""
    assert plan.keep is not None and plan.wrong is not None
    count, height, width, _ = images.shape
    shade = torch.zeros(count, height * width // size**2, dtype=torch.uint8, device=images.device)  # 0 dropped
    shade.scatter_(1, plan.keep[:count], 1 + plan.wrong[:count].to(torch.uint8))  # 1 kept, 2 misplaced
    mask = shade.view(count, height // size, width // size)
    mask = mask.repeat_interleave(size, 1).repeat_interleave(size, 2)[..., None]
    red = torch.tensor([255, 0, 0], dtype=torch.uint8, device=images.device)
    return torch.where(mask == 0, 128, torch.where(mask == 2, images // 2 + red // 2, images)).to(torch.uint8)
