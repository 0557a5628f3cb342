"""DINO's loss over 65,536 prototypes, features to gradients, beside all its logits in memory."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import prototype_cross_entropy

from .work import Place, Work, forcing, plain

CROPS, LARGE, WIDTH = 10, 2, 256
STUDENT, TEACHER = 0.1, 0.04


def works(place: Place) -> Iterator[Work]:
    """Images a GPU."""
    for images in (64, 256)[: place.size(2, 1)]:
        yield work(place, place.size(images, 3), place.size(65_536, 300))


def work(place: Place, images: int, prototypes: int) -> Work:
    """Operations: logits and means of both, and again for the prototypes' gradient, where a teacher has no mean."""

    def inputs() -> tuple[Tensor, ...]:
        shapes = (CROPS, images, WIDTH), (LARGE, images, WIDTH), (prototypes, WIDTH), (prototypes, WIDTH)
        student, teacher, ours, theirs = (F.normalize(place.random(*shape), dim=-1) for shape in shapes)
        center = torch.zeros(prototypes, device=place.device)
        return student.requires_grad_(), teacher, ours.requires_grad_(), center, theirs

    products = 4 * (CROPS + LARGE) + 4 * CROPS + 2 * LARGE
    return Work(
        "prototype_cross_entropy",
        "forward+backward",
        {"B": images, "K": prototypes, "D": WIDTH},
        inputs,
        {
            "chunked": forcing("torch", "prototypes", loss),
            "eager": plain(materialised),
            "compiled": place.compiled(materialised),
            "ours": plain(loss),
        },
        moved=2 * WIDTH * (5 * prototypes + 5 * CROPS * images),
        flops=products * images * prototypes * WIDTH,
        tolerance=5e-2,  # logits rounded to bf16 before a temperature of 0.04
    )


def loss(student: Tensor, teacher: Tensor, weight: Tensor, center: Tensor, theirs: Tensor) -> Tensor:
    """Ours."""
    return prototype_cross_entropy(student, teacher, weight, center, STUDENT, TEACHER, theirs)


def materialised(student: Tensor, teacher: Tensor, weight: Tensor, center: Tensor, theirs: Tensor) -> Tensor:
    """Products in the type that is measured, both softmaxes in fp32, and pair by pair, as DINO is published."""
    guesses = ((student @ weight.T).float() / STUDENT).log_softmax(-1)
    targets = (((teacher @ theirs.T).float() - center) / TEACHER).softmax(-1).detach()
    pairs = [(g, v) for g in range(LARGE) for v in range(CROPS) if g != v]
    return sum(-(targets[g] * guesses[v]).sum(-1).mean() for g, v in pairs) / len(pairs)
