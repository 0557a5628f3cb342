"""`prototype_cross_entropy`: one pass over the prototypes finds the loss and the gradient of the features."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose
from .._shared.registration import operator
from . import reference
from .logits import view_cross_entropy
from .pairs import losses_in_mean, taught
from .softmax import Softmax, chunks, shares
from .temperature import Temperature, scalar


@operator("prototype_cross_entropy")
def _forward(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """student [V, B, d], teacher [G, B, d] -> loss, gradient [V, B, d], and the softmax's sums [.., 2]

    sum_k t_k log p_k = z . sum_k t_k w_k - log-sum-exp: of a target nothing is needed but its barycentre, the mean
    of the prototypes under it, and those of several teachers add. All is in the type of the features.
    """
    rows, answers, bias = _scaled(student, teacher, center, student_temperature, teacher_temperature)
    ours, theirs = Softmax(rows), Softmax(answers)
    for some in chunks(len(weight), len(rows) + len(answers)):
        block = weight[some].to(rows.dtype)
        theirs.add(torch.addmm(bias[some], answers, teacher_weight[some].to(rows.dtype).T), block)
        ours.add(rows @ block.T, block)
    matrix, count = taught(len(student), len(teacher), student), losses_in_mean(student, teacher)
    teachers = matrix.sum(1).repeat_interleave(student.shape[1])[:, None]
    targets = torch.tensordot(matrix, theirs.mean().view(teacher.shape), 1).view(rows.shape)
    far = teachers * ours.largest - (rows * targets).sum(1, keepdim=True)  # large logits cancel before the rest
    loss = (far + teachers * ours.total.log()).sum() / count
    gradient = ours.mean().mul_(teachers).sub_(targets).div_(student_temperature * count)
    return loss, gradient.view(student.shape), ours.sums(), theirs.sums()


@_forward.register_fake
def _(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, answers = (x.shape[0] * x.shape[1] for x in (student, teacher))
    sums = student.new_empty(rows, 2), student.new_empty(answers, 2)
    return student.new_empty(()), student.new_empty(student.shape), *sums


@operator("prototype_cross_entropy_to_weight")
def _to_weight(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    sums: Tensor,
    teacher_sums: Tensor,
) -> Tensor:
    """[K, d] of the type of the weight: (teachers * softmax - sum of targets)^T z, both computed again"""
    rows, answers, bias = _scaled(student, teacher, center, student_temperature, teacher_temperature)
    matrix = taught(len(student), len(teacher), student)
    teachers = matrix.sum(1).repeat_interleave(student.shape[1])[:, None]
    pushed = rows * (grad / losses_in_mean(student, teacher))
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for some in chunks(len(weight), len(rows) + len(answers)):
        target = torch.addmm(bias[some], answers, teacher_weight[some].to(rows.dtype).T)
        target = shares(target, teacher_sums, 1).view(len(teacher), -1)
        excess = shares(rows @ weight[some].to(rows.dtype).T, sums, teachers)
        excess.view(len(student), -1).addmm_(matrix, target, alpha=-1)
        out[some] = excess.T @ pushed
    return out


@_to_weight.register_fake
def _(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    sums: Tensor,
    teacher_sums: Tensor,
) -> Tensor:
    return weight.new_empty(weight.shape)


def _scaled(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: Tensor, teacher_temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Features as rows and the negative center, each over its temperature."""
    rows, answers = student.flatten(0, 1) / student_temperature, teacher.flatten(0, 1) / teacher_temperature
    return rows, answers, center.neg() / teacher_temperature


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, gradient, sums, teacher_sums = ctx.saved_tensors
    weight_grad = _to_weight(grad, *inputs, sums, teacher_sums) if ctx.needs_input_grad[2] else None
    return grad * gradient, None, weight_grad, None, None, None, None


_forward.register_autograd(_backward, setup_context=_save)


def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None,
    center: Tensor,
    student_temperature: Temperature,
    teacher_temperature: Temperature,
    teacher_weight: Tensor | None = None,
) -> Tensor:
    """loss = mean over b, g, v != g of -sum_k softmax((T[g, b] - center) / t)_k log softmax(S[v, b] / s)_k

    S = student @ weight.T and T = teacher @ teacher_weight.T: student [V, B, d] has the features of all views of
    B images, teacher [G, B, d] those of the first G of them, weight and teacher_weight [K, d] the prototypes
    (where teacher_weight is None, the student's for both), center [K]; all of any floating types. Where weight
    is None, student and teacher are S and T themselves, [.., K]. The temperatures s and t are numbers or scalar
    tensors, whose value may change without compiling anew.

    In nats, an fp32 scalar (fp64 where an argument is); computed in fp32, under autocast too. Student and weight
    have gradients, nothing else has. Neither logits nor probabilities of all K prototypes are kept or ever
    whole: memory is that of features, of the weight's gradient, and of a million logits. No images: loss 0. Over
    ranks, the loss is of this rank's images. ValueError where a shape or type does not fit, a number is not
    positive, or there are fewer than two views.

    DINO's loss: Caron et al., arXiv:2104.14294.

    >>> same = torch.zeros(2, 1, 4)
    >>> round(prototype_cross_entropy(same, same, None, torch.zeros(4), 0.1, 0.04).item(), 4)  # ln 4
    1.3863
    """
    _check_views(student, teacher)
    _check_prototypes(student, weight, teacher_weight, center)
    wide = reference.widest(student, teacher, weight, center, teacher_weight)
    temperatures = (
        scalar("student_temperature", student_temperature, student, wide),
        scalar("teacher_temperature", teacher_temperature, student, wide),
    )
    if choose("prototypes", "it has no Triton kernel", expected=False) == "reference":
        with torch.autocast(student.device.type, enabled=False):
            return reference.prototype_cross_entropy(student, teacher, weight, center, *temperatures, teacher_weight)
    teacher, center = teacher.detach(), center.detach().to(wide)
    if weight is None:
        return view_cross_entropy(student, teacher, center, *temperatures)
    theirs = (weight if teacher_weight is None else teacher_weight).detach()
    return _forward(student.to(wide), teacher.to(wide), weight, theirs, center, *temperatures)[0]


def _check_views(student: Tensor, teacher: Tensor) -> None:
    floating("student", student, "[V, B, d]")
    floating("teacher", teacher, "[G, B, d]")
    beside("teacher", teacher, "student", student)
    if student.shape[0] < 2:
        raise refusal("student", student, "[V, B, d] with two views or more")
    if teacher.shape[1:] != student.shape[1:] or not 1 <= teacher.shape[0] <= student.shape[0]:
        views, images, width = student.shape
        raise refusal("teacher", teacher, f"[G, {images}, {width}] with G from 1 to {views}")


def _check_prototypes(student: Tensor, weight: Tensor | None, teacher_weight: Tensor | None, center: Tensor) -> None:
    if weight is not None:
        _check_weights(student, weight, weight if teacher_weight is None else teacher_weight)
    elif teacher_weight is not None:
        raise refusal("teacher_weight", teacher_weight, "None, as weight is and the teacher's are logits, too")
    floating("center", center, "[K]")
    beside("center", center, "student", student)
    count = student.shape[2] if weight is None else weight.shape[0]
    if center.shape[0] != count or count == 0:
        raise refusal("center", center, f"[{max(1, count)}], a number for each prototype")


def _check_weights(student: Tensor, weight: Tensor, teacher_weight: Tensor) -> None:
    for name, tensor in (("weight", weight), ("teacher_weight", teacher_weight)):
        floating(name, tensor, "[K, d]")
        beside(name, tensor, "student", student)
    if weight.shape[0] == 0 or weight.shape[1] != student.shape[2]:
        raise refusal("weight", weight, f"[K, {student.shape[2]}] with K from 1")
    if teacher_weight.shape != weight.shape:
        raise refusal("teacher_weight", teacher_weight, f"of the shape of weight, {list(weight.shape)}")
