"""`adamw_ema_` and `lars_ema_`: schema, checks, and the choice between native code, Triton and the reference."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._shared.checks import refusal
from .._shared.choice import choose, forced, triton_obstacle
from .._shared.native import native
from .._shared.registration import NAMESPACE
from . import reference
from .table import table

ADAMW = (
    "lr", "weight_decay", "weight1", "weight2", "eps", "correction1", "correction2", "scale", "pull", "skip",
)  # fmt: skip
LARS = ("lr", "weight_decay", "momentum", "trust", "scale", "pull", "skip")
Tensors = Sequence[Tensor]
Others = tuple[Tensors, Tensors, Tensors, Tensors, Tensors, Tensors]


@torch.library.custom_op(
    f"{NAMESPACE}::adamw_ema_",
    mutates_args=("parameters", "exp_avgs", "exp_avg_sqs", "teachers", "copies", "teacher_copies"),
)
def _adamw(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    hyper: Tensor,
    groups: list[int],
    teachers: list[Tensor],
    copies: list[Tensor],
    teacher_copies: list[Tensor],
    implementation: str,
) -> None:
    others: Others = (grads, exp_avgs, exp_avg_sqs, teachers, copies, teacher_copies)
    if implementation == "native":
        getattr(torch.ops, NAMESPACE).adamw_ema_table(table(parameters, others, groups), hyper)
    elif implementation == "triton":
        from . import kernel

        kernel.adamw(table(parameters, others, groups), hyper)
    else:
        _plainly(reference.adamw, parameters, (grads, exp_avgs, exp_avg_sqs), hyper, others[3:], groups)


@_adamw.register_fake
def _(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    hyper: Tensor,
    groups: list[int],
    teachers: list[Tensor],
    copies: list[Tensor],
    teacher_copies: list[Tensor],
    implementation: str,
) -> None:
    return None


@torch.library.custom_op(
    f"{NAMESPACE}::lars_ema_", mutates_args=("parameters", "buffers", "teachers", "copies", "teacher_copies")
)
def _lars(
    parameters: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    hyper: Tensor,
    groups: list[int],
    teachers: list[Tensor],
    copies: list[Tensor],
    teacher_copies: list[Tensor],
    implementation: str,
) -> None:
    others: Others = (grads, buffers, [], teachers, copies, teacher_copies)
    if implementation == "native":
        getattr(torch.ops, NAMESPACE).lars_ema_table(table(parameters, others, groups), hyper)
    elif implementation == "triton":
        from . import kernel

        kernel.lars(table(parameters, others, groups), hyper)
    else:
        _plainly(reference.lars, parameters, (grads, buffers), hyper, others[3:], groups)


@_lars.register_fake
def _(
    parameters: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    hyper: Tensor,
    groups: list[int],
    teachers: list[Tensor],
    copies: list[Tensor],
    teacher_copies: list[Tensor],
    implementation: str,
) -> None:
    return None


def _plainly(
    update: Callable[..., None],
    parameters: Tensors,
    moments: Sequence[Tensors],
    hyper: Tensor,
    followers: Sequence[Tensors],
    groups: Sequence[int],
) -> None:
    """Tensor by tensor; a row that skips is waited for, where native code and kernels need not."""
    skips, pulls = hyper[:, -1].tolist(), hyper[:, -2]
    for index, (parameter, *mine) in enumerate(zip(parameters, *moments, strict=True)):
        group = groups[index] if groups else 0
        if not skips[group]:
            update(parameter, *mine, hyper[group])
            reference.follow(parameter, index, pulls[group], *followers)


@torch.no_grad()
def adamw_ema_(
    parameters: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    hyper: Tensor,
    groups: Sequence[int] = (),
    teachers: Tensors = (),
    copies: Tensors = (),
    teacher_copies: Tensors = (),
) -> None:
    """g' = scale g; m += weight1 (g' - m); v += weight2 (g'^2 - v);
    p = (1 - lr weight_decay) p - lr / correction1 * m / (sqrt(v / correction2) + eps); teacher += pull (p - teacher)

    In place, in one pass over memory. Lists of tensors, those at one place of one shape; a flat buffer is a list of
    one. hyper fp32 [G, 10] on their device holds rows of `ADAMW`: weight1 = 1 - beta1 and weight2 = 1 - beta2, which
    fp32 holds more exactly than the betas; correction1 = 1 - beta1^t and correction2 alike; scale, what gradients
    are multiplied by (clipping, loss scaling); pull = 1 - the teacher's momentum; skip, other than 0 where nothing
    shall move, as after an overflow. groups[i] is the row of parameter i. copies and teacher_copies (bf16) receive
    what was computed, rounded. Nothing waits for the device. ValueError where lists or shapes do not fit.

    Loshchilov and Hutter, arXiv:1711.05101; the lerp form keeps equal weights equal, bit for bit.

    >>> p, zero = torch.ones(2), torch.zeros(2)
    >>> hyper = torch.tensor([[0.1, 0.0, 0.1, 0.001, 1e-8, 0.1, 0.001, 1.0, 0.5, 0.0]])
    >>> adamw_ema_([p], [torch.tensor([2.0, -2.0])], [zero.clone()], [zero.clone()], hyper)
    >>> [round(x, 4) for x in p.tolist()]
    [0.9, 1.1]
    """
    lists = {"grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    _check(parameters, lists, hyper, ADAMW, groups, teachers, copies, teacher_copies)
    if parameters:
        how = implementation(parameters, [*grads, *exp_avgs, *exp_avg_sqs, *teachers], [*copies, *teacher_copies])
        many = map(list, (parameters, grads, exp_avgs, exp_avg_sqs))
        _adamw(*many, hyper, list(groups), list(teachers), list(copies), list(teacher_copies), how)


@torch.no_grad()
def lars_ema_(
    parameters: Tensors,
    grads: Tensors,
    buffers: Tensors,
    hyper: Tensor,
    groups: Sequence[int] = (),
    teachers: Tensors = (),
    copies: Tensors = (),
    teacher_copies: Tensors = (),
) -> None:
    """g' = scale g + weight_decay p; m = momentum m + trust |p| / |g'| g'; p -= lr m; teacher += pull (p - teacher)

    As `adamw_ema_`, with rows of `LARS` in hyper [G, 7]. As in MoCo v3 and MAE, vectors neither decay nor adapt (their
    g' is scale g, their factor 1), and the factor is 1 where either norm is 0. The norms of a tensor are added up in
    an order that its size alone decides. Two passes: a flat buffer must be given as views of its tensors.

    You, Gitman and Ginsburg, arXiv:1708.03888.
    """
    _check(parameters, {"grads": grads, "buffers": buffers}, hyper, LARS, groups, teachers, copies, teacher_copies)
    if parameters:
        how = implementation(parameters, [*grads, *buffers, *teachers], [*copies, *teacher_copies])
        many = map(list, (parameters, grads, buffers))
        _lars(*many, hyper, list(groups), list(teachers), list(copies), list(teacher_copies), how)


def ready(device_type: str) -> bool:
    """Whether native code or a kernel can run on this kind of device; C++ is built if need be."""
    return native("optimizers") if device_type == "cpu" else triton_obstacle(device_type) is None


def implementation(parameters: Tensors, others: Tensors, copies: Tensors) -> str:
    """native, triton or reference."""
    device = parameters[0].device.type
    unit = 16 if device == "cuda" else 1
    odd = _odd([*parameters, *others], torch.float32, unit) or _odd(copies, torch.bfloat16, unit)
    wish = forced("optimizers")
    if wish == "reference" or (odd and device == "cpu"):
        return "reference"
    if device == "cpu" and wish != "triton" and native("optimizers"):
        return "native"
    obstacle = odd or triton_obstacle(device)
    return "triton" if choose("optimizers", obstacle, expected=device == "cuda") == "triton" else "reference"


def _odd(tensors: Tensors, dtype: torch.dtype, unit: int) -> str | None:
    """What keeps code that goes by addresses away from these."""
    for tensor in tensors:
        if tensor.dtype != dtype:
            return f"it moves {str(dtype).removeprefix('torch.')}, not {str(tensor.dtype).removeprefix('torch.')}"
        if not tensor.is_contiguous() or tensor.data_ptr() % unit:
            return f"a tensor is not contiguous or does not begin at a multiple of {unit} bytes"
    return None


def _check(
    parameters: Tensors,
    lists: dict[str, Tensors],
    hyper: Tensor,
    names: tuple[str, ...],
    groups: Sequence[int],
    teachers: Tensors,
    copies: Tensors,
    teacher_copies: Tensors,
) -> None:
    for name, tensors in lists.items():
        _alike(name, tensors, parameters)
    for name, tensors in (("teachers", teachers), ("copies", copies), ("teacher_copies", teacher_copies)):
        if tensors:
            _alike(name, tensors, parameters)
    if teacher_copies and not teachers:
        raise refusal("teacher_copies", None, "given only beside teachers")
    if hyper.dtype != torch.float32 or hyper.ndim != 2 or hyper.shape[1] != len(names) or not hyper.is_contiguous():
        raise refusal("hyper", hyper, f"contiguous fp32 [groups, {len(names)}]: {', '.join(names)}")
    if parameters and hyper.device != parameters[0].device:
        raise refusal("hyper", hyper.device, f"on {parameters[0].device}, as the parameters are")
    if groups and (len(groups) != len(parameters) or not all(0 <= group < len(hyper) for group in groups)):
        raise refusal("groups", list(groups), f"a row of hyper, below {len(hyper)}, for each of {len(parameters)}")


def _alike(name: str, tensors: Tensors, parameters: Tensors) -> None:
    if len(tensors) != len(parameters):
        raise refusal(name, len(tensors), f"as many tensors as parameters, {len(parameters)}")
    for index, (tensor, parameter) in enumerate(zip(tensors, parameters, strict=True)):
        if tensor.shape != parameter.shape or tensor.device != parameter.device:
            raise refusal(f"{name}[{index}]", tensor, f"{list(parameter.shape)} on {parameter.device}")
