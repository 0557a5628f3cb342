"""DINO (Caron et al.; arXiv:2104.14294): what a slow copy says of an image's large crops, small crops must say too.

As published: two large crops and V small ones through one encoder; the teacher at the large ones, without drop path; a
centre that keeps it from always giving one answer, a low temperature that keeps it from giving all at once; prototypes
that stay as they are for the first epoch. Two things differ from the official code. The teacher's temperature rises
with every step instead of every epoch, and ends with the warm-up, not an epoch before. And the centre, the mean of
logits, is found as the logits of a mean. Sinkhorn-Knopp in place of the centre and the KoLeo regulariser are options
of DINOv2 (arXiv:2304.07193); both look at the images of all ranks, KoLeo's official code only at those of its own.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln import kernels

from .. import distributed, plans
from ..heads import PrototypeHead
from ..schedule import cosine_inclusive
from ..settings import Encoder
from ..settings.dino import Settings
from ..vit import EVERYTHING, ViT, build
from ..vocabulary import Batch, Losses, Moment, Plan, View
from .method import Base, sheet

WATCHED = 8  # images whose K answers are written out, for metrics


class DINO(Base):
    """loss = mean over crops g of 2 and v of 2 + V, v != g, of CE(softmax((T_g - c) / t), softmax(S_v / t'))

    T and S: logits, the products of teacher's and student's unit features with their unit prototypes.
    """

    center: Tensor  # [K], of the teacher's logits
    teacher_temperature: Tensor  # scalar, of the step under way

    def __init__(self, settings: Settings, encoder: Encoder):
        super().__init__(settings, encoder)
        self.settings = settings
        self.encoder = build(encoder)
        widths = [self.encoder.width, settings.hidden, settings.hidden, settings.bottleneck]
        self.head = PrototypeHead(widths, settings.output, learned_gain=not settings.norm_last_layer)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("center", torch.zeros(settings.output))
        self.register_buffer("teacher_temperature", torch.zeros(()), persistent=False)  # follows from the moment
        self.before_step(Moment(0, 0.0, 0.0))

    def views(self) -> tuple[View, ...]:
        s = self.settings
        large, small = (self.encoder.settings.image_size, s.global_scale), (s.local_size, s.local_scale)
        return tuple(
            View(
                size=size,
                scale=scale,
                interpolation="bicubic",
                jitter=s.jitter,
                jitter_probability=s.jitter_probability,
                gray=s.gray,
                blur=s.blur[kind],
                solarize=s.solarize[kind],
            )
            for kind, (size, scale) in [(0, large), (1, large), *[(2, small)] * s.local_crops]
        )

    def forward(self, batch: Batch) -> Losses:
        seen = self.encoder.class_token(torch.cat(batch.views[:2]), branches=self.branches(batch))
        return self.losses(batch, seen[:, None], EVERYTHING)

    def losses(self, batch: Batch, tokens: Tensor, plan: Plan) -> Losses:
        seen = torch.cat([tokens[:, 0], *self.small(batch)])  # [(2 + V) * B, D]
        student, teacher = self.head(seen).unflatten(0, (len(batch.views), -1)), self.taught(batch)
        ours, theirs = self.head.prototypes(), self.teacher_head.prototypes()
        center = self.center_for(teacher, theirs)
        temperatures = self.settings.student_temperature, self.teacher_temperature
        distillation = kernels.prototype_cross_entropy(student, teacher, ours, center, *temperatures, theirs)
        losses = Losses({"distillation": distillation}, self.watched(student, teacher, ours, theirs, center))
        if self.settings.koleo:
            first, second = tokens[:, 0].chunk(2)
            losses.terms["koleo"] = self.settings.koleo * (koleo(first) + koleo(second))
        return losses

    def small(self, batch: Batch) -> list[Tensor]:
        """Class tokens of the small crops, one below the other: [V * B, D], if there are any."""
        if len(batch.views) == 2:
            return []
        branches = plans.branches(batch, len(self.encoder.blocks), self.encoder.settings.drop_path)
        theirs = None if branches is None else branches[2 * len(batch.ids) :]
        return [self.encoder.class_token(torch.cat(batch.views[2:]), branches=theirs)]

    @torch.no_grad()
    def taught(self, batch: Batch) -> Tensor:
        """What the teacher says of the large crops, no branch dropped: [2, B, d]"""
        features = self.teacher_head(self.teacher.class_token(torch.cat(batch.views[:2])))
        self.said.append(features.mean(0))
        return features.unflatten(0, (2, -1))

    @torch.no_grad()
    def center_for(self, teacher: Tensor, theirs: Tensor) -> Tensor:
        """[K]: what the steps before have left, or what shares these images of all ranks out among the prototypes."""
        if self.settings.centering == "mean":
            return self.center
        return kernels.sinkhorn_center(distributed.gather(teacher.flatten(0, 1)), theirs, self.teacher_temperature)

    def backbone(self) -> ViT:
        return self.teacher

    def before_step(self, now: Moment) -> None:
        s = self.settings
        warm = min(1.0, now.epoch / s.warmup_teacher_epochs) if s.warmup_teacher_epochs else 1.0
        rise = s.teacher_temperature - s.warmup_teacher_temperature
        self.teacher_temperature.fill_(s.warmup_teacher_temperature + warm * rise)
        self.now = now
        self.frozen = now.epoch < s.freeze_last_layer
        self.said: list[Tensor] = []  # the teacher's mean features [d], of each micro-batch

    def after_backward(self) -> None:
        if self.settings.centering == "mean":
            self.recenter()
        if self.frozen:
            for parameter in self.head.last_layer():
                parameter.grad = None

    def teachers(self) -> dict[Tensor, Tensor]:
        student = [*self.encoder.parameters(), *self.head.parameters()]
        return dict(zip(student, [*self.teacher.parameters(), *self.teacher_head.parameters()], strict=True))

    @property
    def momentum(self) -> float:
        """The teacher's, in the step under way."""
        return cosine_inclusive(self.now.progress, 1.0, 0.0, self.settings.momentum, 1.0)

    def pull(self, coming: Moment) -> float:
        return 1 - self.momentum

    @torch.no_grad()
    def recenter(self) -> None:
        """c <- m c + (1 - m) W mean(t): the mean of the logits, without the logits."""
        mean = distributed.mean_over_ranks(torch.stack(self.said).mean(0))
        self.center.lerp_(self.teacher_head.prototypes() @ mean, 1 - self.settings.center_momentum)

    @torch.no_grad()
    def watched(
        self, student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor, center: Tensor
    ) -> dict[str, Tensor]:
        """How sure the teacher is of a few first crops, and how far from it the student is at the second; in nats."""
        with torch.autocast(student.device.type, enabled=False):
            answer = F.log_softmax((teacher[0, :WATCHED] @ theirs.T - center) / self.teacher_temperature, -1)
            guess = F.log_softmax(student[1, :WATCHED] @ ours.T / self.settings.student_temperature, -1)
        return {
            "teacher_entropy": -(answer.exp() * answer).sum(-1).mean(),
            "kl_from_teacher": F.kl_div(guess, answer, reduction="batchmean", log_target=True),
            "teacher_temperature": self.teacher_temperature.clone(),
            "center_norm": center.norm(),
        }

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The large crops, which both see, and the small ones, which only the student sees."""
        kinds = {"globals": batch.views[:2], "locals": batch.views[2:]}
        return {name: sheet([view[:8] for view in views]) for name, views in kinds.items() if views}


def koleo(tokens: Tensor) -> Tensor:
    """-mean log of the distance to the nearest other row, on the unit sphere, among the rows of all ranks: [B, D]

    Sablayrolles et al., arXiv:1806.03198.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        own = F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1, eps=1e-8)
        above, below = (
            ranks * len(own) for ranks in (distributed.rank(), distributed.world() - distributed.rank() - 1)
        )
        everyone = distributed.sum_over_ranks(F.pad(own, (0, 0, above, below)))  # [world * B, D]
        likeness = (own.detach() @ everyone.detach().T).diagonal_scatter(own.new_full((len(own),), -2), above)
        nearest = everyone[likeness.argmax(1)]
        return -(F.pairwise_distance(own, nearest, eps=1e-8) + 1e-8).log().mean()
