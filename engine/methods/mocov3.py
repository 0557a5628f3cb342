"""MoCo v3 (Chen, Xie, He; arXiv:2104.02057): two views of an image agree, seen by a network and its slow copy.

As published: InfoNCE both ways with factor 2 * temperature, keys of all ranks, no queue, BatchNorm heads whose batch
statistics are taken for each view by itself, EMA over parameters only. The official code moves the teacher before it
computes keys; here it moves after the step with the momentum of the step to come, which gives the same values.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels

from .. import distributed
from ..backbone import Backbone
from ..heads import batch_norm_mlp
from ..settings import Encoder
from ..settings.mocov3 import Settings
from ..vit import EVERYTHING, build
from ..vocabulary import Batch, Losses, Moment, Plan, View
from .method import Base


class MoCoV3(Base):
    """loss = ctr(q1, k2) + ctr(q2, k1), ctr(q, k) = 2 t CE(q k^T / t) over the keys of all ranks."""

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.encoder = build(encoder)
        hidden, output = settings.hidden, settings.output
        self.projector = batch_norm_mlp([self.encoder.width, hidden, hidden, output])
        self.predictor = batch_norm_mlp([output, hidden, output])
        self.teacher = nn.ModuleList([copy.deepcopy(self.encoder), copy.deepcopy(self.projector)])
        self.teacher.requires_grad_(False)

    def views(self) -> tuple[View, ...]:
        s = self.settings
        return tuple(
            View(
                size=self.encoder.settings.image_size,
                scale=s.crop_scale,
                jitter=s.jitter,
                jitter_probability=s.jitter_probability,
                gray=s.gray,
                blur=blur,
                solarize=solarize,
            )
            for blur, solarize in zip(s.blur, s.solarize, strict=True)
        )

    def forward(self, batch: Batch) -> Losses:
        seen = self.encoder.class_token(torch.cat(batch.views), branches=self.branches(batch))
        return self.losses(batch, seen[:, None], EVERYTHING)

    def losses(self, batch: Batch, tokens: Tensor, plan: Plan) -> Losses:
        first, second = (self.predictor(self.projector(view)) for view in tokens[:, 0].chunk(2))
        first_keys, second_keys = self.keys(batch)
        contrast = self.contrast(first, second_keys) + self.contrast(second, first_keys)
        return Losses({"contrast": contrast}, {"spread": spread(first)})

    @torch.no_grad()
    def keys(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the teacher says of either view, of all ranks: two [world * B, output]; statistics are a view's own."""
        encoder, projector = self.teacher
        assert isinstance(encoder, Backbone)
        seen = encoder.class_token(torch.cat(batch.views))
        keys = torch.stack([projector(view) for view in seen.chunk(2)], 1)
        return distributed.gather(keys).unbind(1)

    def contrast(self, query: Tensor, keys: Tensor) -> Tensor:
        t = self.settings.temperature
        return 2 * t * kernels.info_nce(query, keys, t, offset=distributed.rank() * len(query)).mean()

    def teachers(self) -> dict[Tensor, Tensor]:
        student = [*self.encoder.parameters(), *self.projector.parameters()]
        return dict(zip(student, self.teacher.parameters(), strict=True))

    def pull(self, coming: Moment) -> float:
        return (1 - self.settings.momentum) * 0.5 * (1 + math.cos(math.pi * coming.progress))

    def negatives(self, batch_size: int) -> int:
        return batch_size - 1


def spread(features: Tensor) -> Tensor:
    """1 where unit-norm features fill the sphere, 0 where they have collapsed to a point. [N, D] -> scalar"""
    return F.normalize(features.detach().float(), dim=-1).std(0).mean() * features.shape[-1] ** 0.5
