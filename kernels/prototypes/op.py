"""`prototype_cross_entropy`: one pass over the prototypes finds the loss and the gradient of the features."""

from typing import Any

import torch
from torch import Tensor

from .._shared.checks import beside, floating, refusal
from .._shared.choice import choose, forced, triton_obstacle
from .._shared.registration import autocast_dtype, operator
from . import reference
from .logits import view_cross_entropy
from .pairs import losses_in_mean, taught
from .softmax import Softmax, chunks, shares
from .temperature import Temperature, scalar

Four = tuple[Tensor, Tensor, Tensor, Tensor]


@operator("prototype_cross_entropy")
def _forward(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    implementation: str,
) -> Four:
    """student [V, B, d], teacher [G, B, d] -> loss, gradient [V, B, d], and the softmax's sums [.., 2]

    sum_k t_k log p_k = z . sum_k t_k w_k - log-sum-exp: of a target nothing is needed but its barycentre, the mean
    of the prototypes under it, and those of several teachers add. All is in the type of the features. `prototypes`
    are `weight` in the type of products, without a gradient of their own.
    """
    if implementation == "triton":
        from . import launch

        return launch.forward(
            student, teacher, prototypes, teacher_prototypes, center, student_temperature, teacher_temperature
        )
    rows, answers, bias = _scaled(student, teacher, center, student_temperature, teacher_temperature)
    ours, theirs = Softmax(rows), Softmax(answers)
    for some in chunks(len(prototypes), len(rows) + len(answers), rows.shape[1]):
        block = prototypes[some].to(rows.dtype)
        theirs.add(torch.addmm(bias[some], answers, teacher_prototypes[some].to(rows.dtype).T), block)
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
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    implementation: str,
) -> Four:
    rows, answers = (x.shape[0] * x.shape[1] for x in (student, teacher))
    wide = torch.promote_types(student.dtype, torch.float32)
    shapes = (), student.shape, (rows, 2), (answers, 2)
    loss, gradient, sums, teacher_sums = (student.new_empty(shape, dtype=wide) for shape in shapes)
    return loss, gradient, sums, teacher_sums


@operator("prototype_cross_entropy_to_weight")
def _to_weight(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    sums: Tensor,
    teacher_sums: Tensor,
    dtype: torch.dtype,
    implementation: str,
) -> Tensor:
    """[K, d] of the type of the weight: (teachers * softmax - sum of targets)^T z, both computed again"""
    features = student, teacher, prototypes, teacher_prototypes, center, student_temperature, teacher_temperature
    if implementation == "triton":
        from . import launch

        return launch.to_weight(grad, *features, sums, teacher_sums, dtype)
    rows, answers, bias = _scaled(student, teacher, center, student_temperature, teacher_temperature)
    matrix = taught(len(student), len(teacher), student)
    teachers = matrix.sum(1).repeat_interleave(student.shape[1])[:, None]
    pushed = rows * (grad / losses_in_mean(student, teacher))
    out = prototypes.new_empty(prototypes.shape, dtype=dtype)
    for some in chunks(len(prototypes), len(rows) + len(answers), rows.shape[1]):
        target = torch.addmm(bias[some], answers, teacher_prototypes[some].to(rows.dtype).T)
        target = shares(target, teacher_sums, 1).view(len(teacher), -1)
        excess = shares(rows @ prototypes[some].to(rows.dtype).T, sums, teachers)
        excess.view(len(student), -1).addmm_(matrix, target, alpha=-1)
        out[some] = excess.T @ pushed
    return out


@_to_weight.register_fake
def _(
    grad: Tensor,
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    student_temperature: Tensor,
    teacher_temperature: Tensor,
    sums: Tensor,
    teacher_sums: Tensor,
    dtype: torch.dtype,
    implementation: str,
) -> Tensor:
    return prototypes.new_empty(prototypes.shape, dtype=dtype)


def _scaled(
    student: Tensor, teacher: Tensor, center: Tensor, student_temperature: Tensor, teacher_temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Features as rows and the negative center, each over its temperature."""
    rows, answers = student.flatten(0, 1) / student_temperature, teacher.flatten(0, 1) / teacher_temperature
    return rows, answers, center.neg() / teacher_temperature


def _save(ctx: Any, inputs: tuple[Any, ...], output: Four) -> None:
    student, teacher, weight, *others, ctx.implementation = inputs
    ctx.dtype = weight.dtype
    ctx.save_for_backward(student, teacher, *others, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, gradient, sums, teacher_sums = ctx.saved_tensors
    weight_grad = None
    if ctx.needs_input_grad[2]:
        weight_grad = _to_weight(grad, *inputs, sums, teacher_sums, ctx.dtype, ctx.implementation)
    return (grad * gradient).to(inputs[0].dtype), None, weight_grad, *[None] * 6


_forward.register_autograd(_backward, setup_context=_save)


def obstacle(dtypes: tuple[torch.dtype, ...], width: int, unavailable: str | None, asked: bool) -> str | None:
    """Why Triton's kernels cannot or, unless they are asked for, should not run; the first type is that of products."""
    if unavailable:
        return unavailable
    if torch.float64 in dtypes:
        return "the kernels add in fp32, and an argument is float64"
    if width > 256:
        return f"the kernels take up to 256 features, not {width}"
    return (
        "in fp32 PyTorch's products are taken unless ours are asked for"
        if dtypes[0].itemsize > 2 and not asked
        else None
    )


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

    In nats, an fp32 scalar (fp64 where an argument is); computed in fp32, under autocast too, but for the products
    of the Triton kernels: these are in the type of autocast, or of student outside of it, and added in fp32; in
    fp32 the kernels run where they are asked for. Student and weight have gradients, nothing else has. Neither
    logits nor probabilities of all K prototypes are kept or ever whole: memory is that of features, of the weight's
    gradient, and of a million logits. No images: loss 0. Over ranks, the loss is of this rank's images. ValueError
    where a shape or type does not fit, a number is not positive, or there are fewer than two views.

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
    kind = autocast_dtype(student) or student.dtype
    implementation = _chosen(student, weight, (kind, wide))
    if implementation == "reference":
        with torch.autocast(student.device.type, enabled=False):
            return reference.prototype_cross_entropy(student, teacher, weight, center, *temperatures, teacher_weight)
    teacher, center = teacher.detach(), center.detach().to(wide)
    if weight is None:
        return view_cross_entropy(student, teacher, center, *temperatures)
    prototypes = weight.detach()
    theirs = prototypes if teacher_weight is None else teacher_weight.detach()
    if implementation == "triton":  # PyTorch converts prototypes a chunk at a time
        prototypes, theirs = prototypes.to(kind), theirs.to(kind)
    else:
        kind = wide
    inputs = student.to(kind), teacher.to(kind), weight, prototypes, theirs, center
    return _forward(*inputs, *temperatures, implementation)[0]


def _chosen(student: Tensor, weight: Tensor | None, dtypes: tuple[torch.dtype, torch.dtype]) -> str:
    """The implementation. PyTorch's is no surprise for logits, and in fp32."""
    device = student.device.type
    if weight is None:
        return choose("prototypes", "logits that exist already are PyTorch's", expected=False)
    found = obstacle(dtypes, student.shape[2], triton_obstacle(device), forced("prototypes") == "triton")
    return choose("prototypes", found, expected=device == "cuda" and dtypes[0].itemsize == 2)


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
