"""LaCViT (Long, Meng, Aragon Camarasa, McCreadie; arXiv:2303.18013): images of a class agree, against all others.

The first of two stages on a labelled data set: an encoder that something else has trained learns by the supervised
contrastive loss (Khosla et al., arXiv:2004.11362), all of it; the second is a linear head on what it has become
(`supervised` with `frozen`). The baselines that the paper compares with are other losses of the same method: `nt_xent`
(SimCLR's: the only positive is the other view) and `n_pair` (Sohn, NeurIPS 2016: one anchor and one positive of each
class, raw features, no head). As published the candidates are those of one micro-batch of one rank, and the loss is
multiplied by temperature / 0.07, which the paper does not write.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkiln import kernels

from .. import distributed, plans
from ..pooling import pooled
from ..settings import Encoder
from ..settings.lacvit import Settings
from ..vit import ViT, build
from ..vocabulary import Batch, Losses, View
from .method import Method


class LaCViT(Method):
    """loss = t/t0 * mean over views i of mean over p of -log(exp(z_i . z_p / t) / sum_{k != i} exp(z_i . z_k / t)),
    p every other view of i's class, z the unit rows of head(pool(encoder(view)))"""

    spreads = True

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        s = self.settings = settings
        self.encoder = build(encoder)
        width, hidden = self.encoder.width, s.hidden or self.encoder.width
        head = [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, s.output)]
        self.projector = nn.Sequential(*(head if s.loss != "n_pair" else []))

    def views(self) -> tuple[View, ...]:
        s = self.settings
        view = View(
            size=self.encoder.settings.image_size,
            scale=s.crop_scale,
            jitter=s.jitter,
            jitter_probability=s.jitter_probability,
            gray=s.gray,
        )
        return (view,) if s.loss == "n_pair" else (view, view)

    def forward(self, batch: Batch) -> Losses:
        depth, rate = len(self.encoder.parts()), self.encoder.settings.drop_path
        features = self.encode(torch.cat(batch.views), plans.branches(batch, depth, rate))
        features = self.projector(features)
        features = features.to(torch.promote_types(features.dtype, torch.float32))  # ranks add up their gradients
        if self.settings.loss == "n_pair":
            assert batch.labels is not None
            return self.n_pair(features, batch.labels)
        views = torch.stack(features.chunk(2), 1)
        if self.settings.loss == "nt_xent":
            return self.told(self.nt_xent(views), views)
        assert batch.labels is not None
        return self.told(self.sup_con(views, batch.labels), views)

    def encode(self, images: Tensor, branches: Tensor | None) -> Tensor:
        """Features of all views [B, D]. In chunks only the features are kept: what the encoder remembers of a chunk
        is computed again when its gradient comes, which is that of the whole batch (Gao et al., arXiv:2101.06983)."""
        size, pool = self.settings.chunk, self.settings.pool
        if size is None or size >= len(images):
            return pooled(self.encoder, images, pool, branches)
        parts = images.split(size)
        factors = [None] * len(parts) if branches is None else branches.split(size)
        return torch.cat(
            [
                checkpoint(pooled, self.encoder, part, pool, factor, use_reentrant=False, preserve_rng_state=False)
                for part, factor in zip(parts, factors, strict=True)
            ]
        )

    def sup_con(self, views: Tensor, labels: Tensor) -> Tensor:
        """views [N, 2, d], labels [N]"""
        s = self.settings
        if not s.gather:
            return kernels.sup_con(views, labels, s.temperature, s.base_temperature)
        everyone, theirs = distributed.gather_with_gradient(views), distributed.gather(labels)
        offset = distributed.rank() * len(views)
        return kernels.sup_con(views, labels, s.temperature, s.base_temperature, everyone, theirs, offset)

    def nt_xent(self, views: Tensor) -> Tensor:
        """views [N, 2, d]"""
        s = self.settings
        factor = 1.0 if s.base_temperature is None else s.temperature / s.base_temperature
        everyone = distributed.gather_with_gradient(views) if s.gather else views
        offset = distributed.rank() * len(views) if s.gather else 0
        loss = kernels.nt_xent(views[:, 0], views[:, 1], s.temperature, everyone[:, 0], everyone[:, 1], offset)
        return factor * loss

    def n_pair(self, features: Tensor, labels: Tensor) -> Losses:
        """features [2C, D] and labels [2C], the two of a class side by side; an anchor whose positive could not be
        read, so that an image of another class came in its place, is its own positive."""
        anchor, positive = features.unflatten(0, (-1, 2)).unbind(1)
        first, second = labels.unflatten(0, (-1, 2)).unbind(1)
        pairs = torch.stack([anchor, torch.where((first == second)[:, None], positive, anchor)], 1)
        everyone = distributed.gather_with_gradient(pairs) if self.settings.gather else pairs
        return self.told(kernels.n_pair(everyone[:, 0], everyone[:, 1], self.settings.l2), pairs)

    def told(self, loss: Tensor, pairs: Tensor) -> Losses:
        """The loss, and the mean cosine of two views, or of anchor and positive."""
        first, second = pairs.detach().float().unbind(1)
        return Losses({self.settings.loss: loss}, {"agreement": F.cosine_similarity(first, second).mean()})

    def backbone(self) -> ViT:
        return self.encoder

    def negatives(self, batch_size: int) -> int:
        """Candidates that are not the other view; with labels some of them are positives too."""
        images = batch_size if self.settings.gather else batch_size // distributed.world()
        return images // 2 - 1 if self.settings.loss == "n_pair" else 2 * images - 2
