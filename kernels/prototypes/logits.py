"""The same cross entropy where logits exist already: some images at a time, and again for the gradient."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._shared.registration import operator
from . import softmax
from .pairs import losses_in_mean, taught


@operator("view_cross_entropy")
def view_cross_entropy(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: Tensor, teacher_temperature: Tensor
) -> Tensor:
    """student [V, B, K], teacher [G, B, K] -> loss, computed in the type of the center [K] and the temperatures"""
    total = torch.zeros_like(student_temperature)
    for _, logits, target in _images(student, teacher, center, student_temperature, teacher_temperature):
        total -= torch.linalg.vecdot(logits.log_softmax(-1), target).sum()
    return total / losses_in_mean(student, teacher)


@view_cross_entropy.register_fake
def _(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: Tensor, teacher_temperature: Tensor
) -> Tensor:
    return torch.empty_like(student_temperature)


@operator("view_cross_entropy_backward")
def _gradient(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
) -> Tensor:
    """[V, B, K], of the type of the student's logits"""
    factor = grad / student_temperature / losses_in_mean(student, teacher)
    teachers = taught(len(student), len(teacher), center).sum(1)[:, None, None]
    out = torch.empty_like(student, memory_format=torch.contiguous_format)
    for some, logits, target in _images(student, teacher, center, student_temperature, teacher_temperature):
        out[:, some] = logits.softmax(-1).mul_(teachers).sub_(target).mul_(factor)
    return out


@_gradient.register_fake
def _(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
) -> Tensor:
    return student.new_empty(student.shape)


def _images(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: Tensor, teacher_temperature: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some images at a time, their logits over the temperature, and the sum of each view's targets: [V, some, K]"""
    matrix = taught(len(student), len(teacher), center)
    step = max(1, softmax.LOGITS_AT_ONCE // max(1, student[:, :1].numel()))
    for start in range(0, student.shape[1], step):
        some = slice(start, start + step)
        answers = teacher[:, some].to(center.dtype).sub(center).div_(teacher_temperature)
        logits = student[:, some].to(center.dtype) / student_temperature
        yield some, logits, torch.tensordot(matrix, answers.softmax(-1), 1)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(grad, *ctx.saved_tensors), None, None, None, None


view_cross_entropy.register_autograd(_backward, setup_context=_save)
