"""SimCLR (Chen, Kornblith, Norouzi, Hinton; arXiv:2002.05709): two views of an image agree, against all other views.

The loss is NT-Xent: for each of 2N views, its partner among the 2N - 1 others of all ranks, whose gradient comes back
to the rank that they came from. The official code reports twice this mean. BatchNorm of the projector takes its
statistics over both views together, as there. No recipe for Vision Transformers was published with it: encoder,
schedule, temperature and the projector's size are those of MoCo v3 (arXiv:2104.02057), the augmentation is SimCLR's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln import kernels

from .. import distributed
from ..heads import batch_norm_mlp
from ..settings import Encoder
from ..settings.simclr import Settings
from ..vit import EVERYTHING, build
from ..vocabulary import Batch, Losses, Plan, View
from .method import Base


class SimCLR(Base):
    """loss = mean over all 2N views i of -log(exp(z_i . z_j / t) / sum_{k != i} exp(z_i . z_k / t)), j its partner"""

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.encoder = build(encoder)
        self.projector = batch_norm_mlp([self.encoder.width, settings.hidden, settings.hidden, settings.output])

    def views(self) -> tuple[View, ...]:
        s = self.settings
        view = View(
            size=self.encoder.settings.image_size,
            scale=s.crop_scale,
            interpolation="bicubic",
            jitter=s.jitter,
            jitter_probability=s.jitter_probability,
            gray=s.gray,
            blur=s.blur,
        )
        return view, view

    def forward(self, batch: Batch) -> Losses:
        seen = self.encoder.class_token(torch.cat(batch.views), branches=self.branches(batch))
        return self.losses(batch, seen[:, None], EVERYTHING)

    def losses(self, batch: Batch, tokens: Tensor, plan: Plan) -> Losses:
        first, second = self.projector(tokens[:, 0]).chunk(2)
        wide = torch.promote_types(first.dtype, torch.float32)  # in which ranks add up their gradients
        everyone = distributed.gather_with_gradient(torch.stack([first, second], 1).to(wide)).to(first.dtype)
        all_first, all_second = everyone.unbind(1)
        offset = distributed.rank() * len(first)
        contrast = kernels.nt_xent(first, second, self.settings.temperature, all_first, all_second, offset)
        return Losses({"contrast": contrast}, {"agreement": agreement(first, second)})

    def negatives(self, batch_size: int) -> int:
        return 2 * batch_size - 2


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """The mean cosine between the two views of an image. [N, D] each -> scalar"""
    return F.cosine_similarity(first.detach().float(), second.detach().float()).mean()
