"""prototype_cross_entropy: DINO's 10 crops, 65,536 prototypes on a GPU and 4,096 on a CPU."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.conftest import DEVICE, DTYPE
from vitkiln.kernels.prototypes import prototype_cross_entropy, sinkhorn_center

IMAGES, PROTOTYPES = (64, 65_536) if DEVICE == "cuda" else (8, 4096)


@pytest.fixture
def crops() -> SimpleNamespace:
    """Features of unit length, and the prototypes of the student."""
    shapes = {"student": (10, IMAGES, 256), "teacher": (2, IMAGES, 256), "weight": (PROTOTYPES, 256)}
    unit = {name: F.normalize(torch.randn(shape, device=DEVICE), dim=-1) for name, shape in shapes.items()}
    student, teacher, weight = unit["student"].to(DTYPE), unit["teacher"].to(DTYPE), unit["weight"]
    center = torch.zeros(PROTOTYPES, device=DEVICE)
    return SimpleNamespace(student=student.requires_grad_(), teacher=teacher, weight=weight, center=center)


def loss(student: Tensor, teacher: Tensor, weight: Tensor, center: Tensor) -> Tensor:
    """DINO's temperatures."""
    return prototype_cross_entropy(student, teacher, weight, center, 0.1, 0.04)


def test_forward_and_backward_to_features(crops, timed):
    """Prototypes that are frozen, as in the first epoch."""
    timed(loss, crops.student, crops.teacher, crops.weight, crops.center)


def test_forward_and_backward(crops, timed):
    """Gradients of features and prototypes."""
    timed(loss, crops.student, crops.teacher, crops.weight.requires_grad_(), crops.center)


def test_sinkhorn(crops, timed):
    """Three iterations."""
    timed(lambda teacher, weight: sinkhorn_center(teacher, weight, 0.04), crops.teacher.flatten(0, 1), crops.weight)
