"""RelViT (Camporese, Izzo, Ballan; arXiv:2206.00481): where do the patches of an image lie, seen from each other?

As published: every patch is cropped, jittered and grayed by itself, and the encoder sees all of them but is told no
place (`encoder.position: none`). For each pair of its tokens nine attention scores, one for each relation from above
on the left to below on the right, are told apart by cross entropy; a linear layer names each patch's own place.
Distances and angles of pairs may be asked for too. With `classification` the same step learns from labels; positions
are on then, from which the other answers can be read.

Unlike the published code: patches change before normalisation, in 8 bits, unless `official_order`; the probabilities
that are written count; shuffling moves the pixels with the labels; rows and columns of mega-patches are cut by
themselves, unless `official_axes`; heads for pairs have no value projections, which nothing ever used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkiln import kernels
from vitkiln.kernels.relation_loss import relation_labels

from .. import plans, relations
from ..decoder import image_of, patches_of
from ..mega_patches import merged
from ..patch_transforms import PatchTransforms, noisy, permutation
from ..settings import Encoder
from ..settings.relvit import RELATIONS, Settings
from ..vit import EVERYTHING, ViT, build
from ..vocabulary import Batch, Losses, View
from .method import Method, sheet

PAIRWISE = {"distances", "angles"}  # tasks that have a table of answers
Answer = tuple[Tensor, dict[str, Tensor]]  # a loss, and what is reported beside it


class RelViT(Method):
    """loss = sum over tasks of weight * its loss, of tokens z and places p, q of all patches of an image

    relations: -log softmax_h(z_p W_h . z_q V_h / sqrt(d))[relation(p, q)], mean over pairs, h of nine heads;
    places: -log softmax(U z_p)[p], mean over patches; distances and angles: (z_p W . z_q V / sqrt(D) - target)^2.
    """

    mean: Tensor
    std: Tensor
    distances_of: Tensor  # [P, P], of those tasks that are on
    angles_of: Tensor

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        s = self.settings = settings
        self.encoder = build(encoder)
        self.side = s.mega_patches or self.encoder.grid
        self.shuffled = s.shuffles(encoder)
        self.transforms = PatchTransforms(s.patch_crop, s.patch_jitter, s.patch_jitter_probability, s.patch_gray)
        self.heads = nn.ModuleDict(heads(s, self.encoder.width, self.side**2))
        self.register_buffer("mean", torch.tensor(encoder.mean), persistent=False)
        self.register_buffer("std", torch.tensor(encoder.std), persistent=False)
        for name in PAIRWISE & {*s.tasks}:
            self.register_buffer(f"{name}_of", getattr(relations, name)(self.side), persistent=False)

    def views(self) -> tuple[View, ...]:
        s, size = self.settings, self.encoder.settings.image_size
        scale, padding = s.crop_scale, s.padding
        return (View(size=size, scale=scale, padding=padding, jitter_probability=0.0, gray=0.0, flip=s.flip),)

    def forward(self, batch: Batch) -> Losses:
        images, sources = self.seen(batch)
        branches = plans.branches(batch, len(self.encoder.blocks), self.encoder.settings.drop_path)
        tokens = self.encoder(images, EVERYTHING, branches)
        patches, s, losses = self.patches(tokens), self.settings, Losses()
        for task in s.tasks:
            self.count(losses, task, getattr(self, f"told_{task}")(patches, sources))
        if s.classification:
            self.count(losses, "classification", self.told_classes(tokens, batch))
        return losses

    def count(self, losses: Losses, task: str, answer: Answer) -> None:
        """Add what a task lost, times its weight."""
        loss, metrics = answer
        losses.terms[task] = getattr(self.settings, task) * loss
        losses.metrics.update(metrics)

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The images as the encoder sees them [B, H, W, 3], and from which place each patch comes: int64 [B, P]"""
        s, own, images = self.settings, self.encoder.settings, batch.views[0]
        if s.official_order:
            images = (images / 255 - self.mean) / self.std
        if s.mega_patches is not None:
            images = merged(images, batch.seed, batch.ids, own.patch_size, s.mega_patches, same_axes=s.official_axes)
        if s.changes_patches or self.shuffled:
            images, sources = self.moved(images, batch)
        else:
            sources = torch.arange(self.side**2, device=images.device).expand(len(images), -1)
        return images * self.std + self.mean if s.official_order else images, sources

    def moved(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, of images whose patches change, each by itself, and then their places."""
        s, own, size = self.settings, self.encoder.settings, self.encoder.settings.patch_size
        patches = patches_of(images, size).unflatten(2, (size, size, 3))
        patches = self.transforms(patches, batch.seed, batch.ids).flatten(2)
        sources = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[:2])
        if self.shuffled:
            sources = permutation(batch.seed, batch.ids, patches.shape[1])
            patches = patches.gather(1, sources[..., None].expand_as(patches))
        images = image_of(patches, self.side, size)
        if s.patch_noise:
            images = noisy(images, size, s.patch_noise, batch.seed, batch.ids, (own.mean, own.std))
        return images, sources

    def patches(self, tokens: Tensor) -> Tensor:
        """[B, P, D] of tokens [B, prefix + P, D]."""
        patches = tokens[:, self.encoder.prefix :]
        return patches + tokens[:, :1] if self.settings.class_in_patches else patches

    def scored(self, task: str, patches: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Queries and keys of a task: [B, heads, P, d] each"""
        query, key = self.heads[task](patches).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key

    def told_relations(self, patches: Tensor, sources: Tensor) -> Answer:
        query, key = self.scored("relations", patches, RELATIONS)
        rows, cols = sources // self.side, sources % self.side
        loss, accuracy = kernels.relation_loss(query, key, rows, cols, self.settings.smoothing)
        return loss, {"relation_accuracy": accuracy}

    def told_places(self, patches: Tensor, sources: Tensor) -> Answer:
        logits = self.heads["places"](patches).transpose(1, 2)  # [B, P, N]
        right = logits.argmax(1) == sources
        return F.cross_entropy(widened(logits), sources), {"place_accuracy": right.float().mean()}

    def told_distances(self, patches: Tensor, sources: Tensor) -> Answer:
        error, explained = self.regressed("distances", patches, relations.of_pairs(self.distances_of, sources))
        return error, {"distance_explained": explained}

    def told_angles(self, patches: Tensor, sources: Tensor) -> Answer:
        error, explained = self.regressed("angles", patches, relations.of_pairs(self.angles_of, sources))
        return error, {"angle_explained": explained}

    def regressed(self, task: str, patches: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The mean square of what scores [B, P, P] miss, and how much better that is than the best constant: from
        minus infinity, through 0 for none, to 1 for no error."""
        query, key = self.scored(task, patches, 1)
        scores = widened(query @ key.mT)[:, 0] / math.sqrt(query.shape[3])
        error = F.mse_loss(scores, target.to(scores.dtype))
        return error, (1 - error.detach() / target.var(correction=0)).float()

    def told_classes(self, tokens: Tensor, batch: Batch) -> Answer:
        assert batch.labels is not None
        pooled = tokens[:, 0] if self.encoder.prefix else tokens.mean(1)
        logits = widened(self.heads["classification"](pooled))
        right = logits.argmax(1) == batch.labels
        return F.cross_entropy(logits, batch.labels), {"accuracy": right.float().mean()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor | None:
        """None where nothing is classified."""
        if "classification" not in self.heads:
            return None
        return self.heads["classification"](self.encoder.class_token(images))

    def classifies(self) -> bool:
        return "classification" in self.heads

    def backbone(self) -> ViT:
        return self.encoder

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The images, what the encoder sees of them, and for each patch in a colour where it lies, seen from the one
        in the middle: as the heads say, and as it is."""
        first = Batch((batch.views[0][:8],), batch.ids[:8], batch.seed)
        images, sources = self.seen(first)
        seen = images if images.dtype == torch.uint8 else (255 * images).round().clamp(0, 255).to(torch.uint8)
        rows = [first.views[0], seen]
        if self.settings.relations:
            size = self.encoder.settings.patch_size
            rows += [relations.painted(where, size) for where in self.from_the_middle(images, sources)]
        return {"views": sheet(rows)}

    def from_the_middle(self, images: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """The relation of every patch to the middle one, as told and as it is: [B, P] each"""
        query, key = self.scored("relations", self.patches(self.encoder(images)), RELATIONS)
        middle = self.side // 2 * (self.side + 1)
        told = (query @ key[:, :, middle, :, None])[..., 0].argmax(1)
        return told, relation_labels(sources // self.side, sources % self.side)[..., middle]


def heads(settings: Settings, width: int, places: int) -> dict[str, nn.Linear]:
    """A linear layer for each task, at the published initialisation."""
    outputs = {
        "relations": (2 * RELATIONS * (width // RELATIONS), False),  # queries and keys side by side
        "places": (places, True),
        "distances": (2 * width, False),
        "angles": (2 * width, False),
    }
    found = {task: nn.Linear(width, *outputs[task]) for task in settings.tasks}
    if settings.classification:
        assert settings.classes is not None  # filled in from the data
        found["classification"] = nn.Linear(width, settings.classes)
    for head in found.values():
        nn.init.trunc_normal_(head.weight, std=0.02)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
    return found


def widened(x: Tensor) -> Tensor:
    """At least fp32, for a softmax or a square."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
