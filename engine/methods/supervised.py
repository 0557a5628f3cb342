"""Supervised training as DeiT does it (Touvron et al., arXiv:2012.12877), and fine-tuning as MAE does (2111.06377).

The published regularisation: RandAugment, random erasing, mixup or cutmix, smoothed labels, drop path. With
`encoder.weights` it begins with another method's encoder; a rate that decays from layer to layer is the optimiser's
business. With `frozen` that encoder stays as it is and the head alone learns (LaCViT's second stage, arXiv:2303.18013).
Differences from the published code: mixing pairs neighbours (mix.py says why), all ranks mix in the same
proportion, no average of the weights is kept, and with `pool: mean` the encoder keeps the norm that it came with,
unused and unchanged, so that what is exported is whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import plans
from ..mix import Mixing, erased
from ..pooling import pooled
from ..settings import Encoder
from ..settings.supervised import Settings
from ..vit import ViT, build
from ..vocabulary import Batch, Losses, View
from .method import Method, sheet


class Supervised(Method):
    """loss = -sum_c y_c log softmax(head(pool(encoder(image))))_c, y the mixed and smoothed label"""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        assert settings.classes is not None  # filled in from the data
        s = self.settings = settings
        self.encoder = build(encoder)
        self.norm = nn.LayerNorm(self.encoder.width, eps=1e-6) if s.pool == "mean" else None
        if self.norm is not None:
            self.encoder.norm.requires_grad_(False)
        if s.frozen:
            self.encoder.requires_grad_(False)
        self.head = nn.Linear(self.encoder.width, settings.classes)
        nn.init.trunc_normal_(self.head.weight, std=s.head_std)
        nn.init.zeros_(self.head.bias)
        self.mixing = Mixing(settings.classes, s.mixup, s.cutmix, s.mix_probability, s.mix_switch, s.smoothing)
        self.register_buffer("mean", torch.tensor(encoder.mean), persistent=False)
        self.register_buffer("std", torch.tensor(encoder.std), persistent=False)

    def views(self) -> tuple[View, ...]:
        s, encoder = self.settings, self.encoder.settings
        red, green, blue = (max(0, min(255, round(255 * channel))) for channel in encoder.mean)
        view = View(
            size=encoder.image_size,
            scale=s.crop_scale,
            padding=s.padding,
            interpolation=s.interpolation,
            randaugment=s.randaugment,
            fill=(red, green, blue),
            jitter=s.jitter,
            jitter_probability=s.jitter_probability if any(s.jitter) else 0.0,
            gray=s.gray,
            flip=s.flip,
            vertical_flip=s.vertical_flip,
        )
        return (view,)

    def forward(self, batch: Batch) -> Losses:
        """The accuracy that is reported is the share of images whose largest logit is the label with the most weight
        in their target: their own, or their partner's where that has more. Mixed images are harder than clean ones."""
        images, targets = self.seen(batch)
        rate = 0.0 if self.settings.frozen else self.encoder.settings.drop_path
        branches = plans.branches(batch, len(self.encoder.blocks), rate)
        logits = self.logits(images, branches).float()
        right = logits.argmax(1) == targets.argmax(1)
        return Losses({"cross_entropy": F.cross_entropy(logits, targets)}, {"accuracy": right.float().mean()})

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The images as the encoder sees them, erased and mixed, and their targets."""
        assert batch.labels is not None
        images = erased(batch.views[0], batch.seed, batch.ids, self.settings.erase, self.mean, self.std)
        return self.mixing(images, batch.labels, batch.seed)

    def logits(self, images: Tensor, branches: Tensor | None = None) -> Tensor:
        """[B, C] of images uint8 or float [B, H, W, 3]."""
        if self.norm is not None:
            return self.head(self.norm(self.encoder.stream(images, branches).mean(1)))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.frozen):
            features = pooled(self.encoder, images, self.settings.pool, branches)
        return self.head(features)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        return self.logits(images)

    def backbone(self) -> ViT:
        return self.encoder

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The crops, and under them what the encoder sees of them."""
        seen = self.seen(batch)[0]
        pixels = seen if seen.dtype == torch.uint8 else (255 * seen).round().clamp(0, 255).to(torch.uint8)
        return {"views": sheet([batch.views[0][:8], pixels[:8]])}
