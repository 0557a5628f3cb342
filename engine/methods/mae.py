"""MAE (He et al.; arXiv:2111.06377): from a quarter of an image's patches, what do the others look like?

As published: the encoder sees a random subset only, a small decoder sees what the encoder made of it and a mask token
for every other patch; the loss is the squared error of the hidden patches, each normalised by its own mean and
unbiased deviation. Crops and flips are all the augmentation there is. The sin-cos tables have the row axis first
where the official code has the column axis first: the same tables with their halves swapped.
"""

import torch
from torch import Tensor

from vitkiln import kernels

from .. import plans
from ..decoder import Decoder, image_of, painted, patches_of
from ..settings import Encoder
from ..settings.mae import Settings
from ..settings.sections import kept
from ..vit import build
from ..vocabulary import Batch, Losses, Plan, View
from .method import Base, sheet

EPSILON = 1e-6  # beside a patch's variance
GRAY = 128


class MAE(Base):
    """loss = mean over hidden patches x of mean((prediction - (x - mean(x)) / sqrt(var(x) + eps))^2)"""

    student = 1

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.encoder = build(encoder)
        self.kept = kept(encoder.patches, settings.keep)
        self.decoder = Decoder(
            self.encoder.width,
            self.encoder.prefix,
            self.encoder.grid,
            encoder.patch_size,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
        )

    def views(self) -> tuple[View, ...]:
        return (
            View(
                size=self.encoder.settings.image_size,
                scale=self.settings.crop_scale,
                interpolation="bicubic",
                jitter_probability=0.0,
                gray=0.0,
            ),
        )

    def forward(self, batch: Batch) -> Losses:
        plan = self.plan(batch)
        return self.losses(batch, self.encoder(batch.views[0], plan, self.branches(batch)), plan)

    def losses(self, batch: Batch, tokens: Tensor, plan: Plan) -> Losses:
        assert plan.restore is not None
        prediction = self.decoder(tokens, plan.restore)  # [B, P, 3 * p * p]
        mean, std = self.encoder.settings.mean, self.encoder.settings.std
        images, pixelwise = batch.views[0], self.settings.norm_pix
        error = kernels.normalized_pixel_mse(prediction, images, hidden(plan), mean, std, normalize=pixelwise)
        return Losses({"reconstruction": error})

    def plan(self, batch: Batch) -> Plan:
        return plans.misplaced(batch, self.encoder.settings.patches, self.kept, 0.0, views=1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images, what the encoder sees of them, and what the decoder makes of that."""
        images, plan, size = batch.views[0], self.plan(batch), self.encoder.settings.patch_size
        assert plan.restore is not None
        guessed = self.painted(self.decoder(self.encoder(images, plan), plan.restore), images)
        original, unknown = patches_of(images, size), hidden(plan)[..., None]
        seen, whole = (torch.where(unknown, there, original) for there in (torch.full_like(original, GRAY), guessed))
        rows = [image_of(row, images.shape[1] // size, size)[:8] for row in (original, seen, whole)]
        return {"reconstruction": sheet(rows)}

    def painted(self, prediction: Tensor, images: Tensor) -> Tensor:
        """A prediction as uint8 patches; what it says of normalised ones gets their own mean and deviation back."""
        settings = self.encoder.settings
        if self.settings.norm_pix:
            mean, std = (images.new_tensor(value, dtype=torch.float32) for value in (settings.mean, settings.std))
            target = patches_of((images / 255 - mean) / std, settings.patch_size)
            deviation = (target.var(-1, keepdim=True) + EPSILON).sqrt()
            prediction = prediction * deviation + target.mean(-1, keepdim=True)
        return painted(prediction, settings.mean, settings.std)


def hidden(plan: Plan) -> Tensor:
    """Which patches the encoder does not see: bool [B, P]"""
    assert plan.keep is not None
    assert plan.restore is not None
    return plan.restore >= plan.keep.shape[1]
