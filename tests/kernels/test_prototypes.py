"""prototype_cross_entropy: a loss over many prototypes, without their products with features."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.prototypes import op, prototype_cross_entropy, reference, sinkhorn_center, softmax

SHAPES = [(4, 2, 3, 7, 131), (2, 2, 1, 1, 1), (5, 1, 2, 6, 64), (3, 3, 5, 4, 65)]  # V, G, B, d, K


def sample(views=4, teachers=2, images=3, width=7, prototypes=131, dtype=torch.float64) -> list[Tensor]:
    """student, teacher, weight, center, teacher_weight"""
    shapes = [(views, images, width), (teachers, images, width), (prototypes, width), (prototypes,)]
    tensors = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in (*shapes, shapes[2])]
    return [tensors[0].requires_grad_(), tensors[1], tensors[2].requires_grad_(), *tensors[3:]]


def loss(student, teacher, weight, center, teacher_weight=None, temperatures=(0.5, 0.2), by=None) -> Tensor:
    return (by or prototype_cross_entropy)(student, teacher, weight, center, *temperatures, teacher_weight)


def loop(*arguments: Tensor) -> float:
    """Pair by pair and image by image."""
    student, teacher, weight, center, teacher_weight = (x.detach() for x in arguments)
    losses = []
    for b in range(student.shape[1]):
        for g in range(len(teacher)):
            target = torch.softmax((teacher_weight @ teacher[g, b] - center) / 0.2, 0)
            guesses = [torch.log_softmax(weight @ student[v, b] / 0.5, 0) for v in range(len(student)) if v != g]
            losses += [-float(target @ guess) for guess in guesses]
    return sum(losses) / len(losses)


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(softmax, "LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(softmax, "PROTOTYPES_AT_ONCE", 10)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_means_what_a_loop_says(implementation):
    arguments = sample()
    with use(implementation):
        assert loss(*arguments).item() == pytest.approx(loop(*arguments), rel=1e-12)


@pytest.mark.parametrize("own_teacher", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("few_at_once")
def test_operator_equals_reference_forward_and_backward(shape, own_teacher, gradients):
    arguments = sample(*shape) if own_teacher else sample(*shape)[:4]
    theirs = gradients(loss, *arguments, by=reference.prototype_cross_entropy)
    for actual, expected in zip(gradients(loss, *arguments), theirs, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)  # a lone prototype costs 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("few_at_once")
def test_logits_cost_what_their_features_do(shape, gradients):
    student, teacher, weight, center, theirs = sample(*shape)
    logits = (student @ weight.T).detach().requires_grad_(), teacher @ theirs.T, None, center
    expected = gradients(loss, *logits, by=reference.prototype_cross_entropy)
    for actual, wanted in zip(gradients(loss, *logits), expected, strict=True):
        assert torch.allclose(actual, wanted, rtol=1e-10, atol=1e-12)
    assert loss(*logits).item() == pytest.approx(loss(student, teacher, weight, center, theirs).item(), abs=1e-12)


@pytest.mark.usefixtures("few_at_once")
def test_gradients_are_the_derivatives():
    student, teacher, weight, center, theirs = sample(3, 2, 2, 3, 13)
    assert torch.autograd.gradcheck(lambda s, w: loss(s, teacher, w, center, theirs), (student, weight))
    logits, answers = (torch.randn(n, 2, 5, dtype=torch.float64) for n in (3, 2))
    assert torch.autograd.gradcheck(lambda s: loss(s, answers, None, center[:5]), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("few_at_once")
def test_is_computed_in_fp32_whatever_arrives(dtype, gradients, close):
    narrow = sample(dtype=dtype)
    wide = [a.detach().double().requires_grad_(a.requires_grad) for a in narrow]
    ours, theirs = (gradients(loss, *arguments) for arguments in (narrow, wide))
    assert ours[0].dtype == torch.float32
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected)


def test_weight_may_be_wider_than_features(gradients, close):
    student, teacher, weight, center, theirs = sample(dtype=torch.float32)
    half = student.detach().bfloat16().requires_grad_(), teacher.bfloat16(), weight, center, theirs
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in half]
    ours = gradients(loss, *half)
    assert [x.dtype for x in ours] == [torch.float32, torch.bfloat16, torch.float32]
    for actual, expected in zip(ours, gradients(loss, *wide), strict=True):
        close(actual, expected)


def test_features_of_zero_cost_the_logarithm_of_the_prototypes():
    weight = torch.randn(65_536, 8)
    nothing = torch.zeros(3, 2, 8)
    assert round(loss(nothing, nothing[:2], weight, torch.zeros(65_536)).item(), 4) == 11.0904


@pytest.mark.usefixtures("few_at_once")
def test_a_constant_added_to_all_logits_changes_nothing(close):
    student, teacher, weight, center, theirs = sample()
    before = loss(student, teacher, weight, center, theirs)
    moved = weight + torch.randn(7, dtype=torch.float64)  # moves every logit of a row by the same number
    close(loss(student, teacher, moved, center, theirs), before)
    close(loss(student, teacher, weight, center + 3, theirs), before)


def test_a_view_learns_nothing_from_its_own_teacher():
    student, teacher, weight, center, _ = sample(views=2, teachers=2, images=1)
    alone = torch.autograd.grad(loss(student, teacher, weight, center), student)[0]
    changed = torch.stack([torch.randn(1, 7, dtype=torch.float64), teacher[1]])
    again = torch.autograd.grad(loss(student, changed, weight, center), student)[0]
    assert torch.equal(alone[0], again[0])
    assert not torch.equal(alone[1], again[1])


@pytest.mark.parametrize("logits", [False, True])
def test_nothing_flows_to_the_teacher(logits):
    student, teacher, weight, center, theirs = (x.detach().requires_grad_() for x in sample())
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    if logits:
        student, teacher, weight, theirs = student @ weight.T, teacher @ theirs.T, None, None
        student, teacher = student.detach().requires_grad_(), teacher.detach().requires_grad_()
    loss(student, teacher, weight, center, theirs, (0.5, temperature)).backward()
    assert student.grad is not None
    given = [x for x in (teacher, center, theirs, temperature) if x is not None]
    assert [x.grad for x in given] == [None] * len(given)


def test_prototypes_of_both_learn_as_the_students_alone(close):
    student, teacher, weight, center, _ = sample()
    shared = torch.autograd.grad(loss(student, teacher, weight, center), weight)[0]
    close(shared, torch.autograd.grad(loss(student, teacher, weight, center, weight.detach()), weight)[0])


@pytest.mark.parametrize("temperature", [0.04, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cold_teacher_is_read_exactly(temperature, dtype, gradients, close):
    student, teacher, weight, center, theirs = sample(4, 2, 5, 32, 500, dtype)
    unit = [F.normalize(x.detach().float(), dim=-1).to(dtype) for x in (student, teacher, weight, theirs)]
    narrow = unit[0].requires_grad_(), unit[1], unit[2].requires_grad_(), center * 0.1, unit[3]
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in narrow]
    ours, expected = (gradients(loss, *each, temperatures=(0.1, temperature)) for each in (narrow, wide))
    for actual, wanted in zip(ours, expected, strict=True):
        assert (actual.double() - wanted).norm() <= (1e-2 if actual.dtype == torch.bfloat16 else 5e-5) * wanted.norm()


@pytest.mark.parametrize("temperature", [0.04, 0.01])
@pytest.mark.usefixtures("few_at_once")
def test_large_logits_do_not_overflow(temperature, gradients, close):
    student = torch.tensor([[[1e4, -1e4, 0, 1e4]], [[-1e4, 1e4, 0, 1e4]]], requires_grad=True)
    eye, center = torch.eye(4).requires_grad_(), torch.zeros(4)
    teacher = student.detach().flip(0)
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in (student, teacher, eye, center)]
    for weight in (0, None):  # the identity makes logits of features
        arguments = (student, teacher, eye if weight == 0 else None, center)
        oracle = (*exact[:2], exact[2] if weight == 0 else None, exact[3])
        ours = gradients(loss, *arguments, temperatures=(0.1, temperature))
        wanted = gradients(loss, *oracle, temperatures=(0.1, temperature), by=reference.prototype_cross_entropy)
        for actual, expected in zip(ours, wanted, strict=True):
            assert actual.isfinite().all()
            assert torch.allclose(actual.double(), expected, rtol=1e-4, atol=1e-2)


def test_prototypes_that_are_the_same_share_the_probability(close):
    student, teacher, weight, center, _ = sample()
    twice, centers = torch.cat([weight, weight]), torch.cat([center, center])
    close(loss(student, teacher, twice, centers), loss(student, teacher, weight, center) + math.log(2))


def test_temperatures_may_be_tensors(close):
    arguments = sample()
    tensors = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    close(loss(*arguments, temperatures=tensors), loss(*arguments))


def test_the_upstream_gradient_counts(close):
    arguments = sample()
    one = torch.autograd.grad(loss(*arguments), (arguments[0], arguments[2]))
    three = torch.autograd.grad(3 * loss(*arguments), (arguments[0], arguments[2]))
    for actual, expected in zip(three, one, strict=True):
        close(actual, 3 * expected)


def test_turned_inputs_are_read_right(gradients, close):
    arguments = sample()
    turned = [x.detach().mT.contiguous().mT.requires_grad_(x.requires_grad) if x.dim() > 1 else x for x in arguments]
    for actual, expected in zip(gradients(loss, *turned), gradients(loss, *arguments), strict=True):
        close(actual, expected)


def test_no_images_cost_nothing():
    student, teacher, weight, center, theirs = sample(images=0)
    total = loss(student, teacher, weight, center, theirs)
    total.backward()
    assert total.item() == 0
    assert not weight.grad.any()
    logits = torch.zeros(3, 0, 131, requires_grad=True)
    assert loss(logits, logits[:2].detach(), None, center).item() == 0


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes how many numbers the largest result of any operation has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, tuple | list) else [out]
        self.numbers = max([self.numbers, *(x.numel() for x in results if isinstance(x, Tensor))])
        return out


@pytest.mark.usefixtures("few_at_once")
def test_no_array_of_rows_by_prototypes_exists():
    student, teacher, weight, center, theirs = sample(8, 2, 16, 4, 400)
    student, weight = student.detach(), weight.detach()
    others = [weight, theirs, center, *torch.tensor([0.5, 0.2]).double()]
    with Largest() as seen:
        _, _, *sums = op._forward._opoverload(student, teacher, weight, *others, "torch")
        one = torch.ones(()).double()
        op._to_weight._opoverload(one, student, teacher, *others, *sums, weight.dtype, "torch")
        sinkhorn_center(teacher.flatten(0, 1), weight, 0.2)
    assert 0 < seen.numbers <= (8 + 2) * 16 * 10  # all rows, ten prototypes


def test_only_features_and_weights_are_saved():
    student, teacher, weight, center, theirs = sample(8, 2, 16, 4, 400)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss(student, teacher, weight, center, theirs)
    assert max(x.numel() for x in saved) == weight.numel()


def test_a_weight_without_gradient_costs_no_product(called):
    student, teacher, weight, center, _ = sample()
    total = loss(student, teacher, weight.detach(), center)
    with called() as names:
        total.backward()
    assert student.grad is not None
    assert "prototype_cross_entropy_to_weight" not in names


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_narrows_neither_pass(implementation, close):
    arguments = sample(dtype=torch.float32)
    wide = [x.detach().double() for x in arguments]
    leaves = arguments[0], arguments[2]
    plain = torch.autograd.grad(loss(*arguments), leaves)
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        total = loss(*arguments)
        narrow = torch.autograd.grad(total, leaves)
        center = sinkhorn_center(arguments[1][0], arguments[2], 0.2)
    close(total, loss(*wide), torch.float32)
    close(center, sinkhorn_center(wide[1][0], wide[2], 0.2), torch.float32)
    if implementation == "torch":
        for actual, expected in zip(narrow, plain, strict=True):
            close(actual, expected)


def test_registration():
    student, teacher, weight, center, theirs = sample()
    temperatures = torch.tensor(0.5).double(), torch.tensor(0.2).double()
    torch.library.opcheck(
        op._forward._opoverload,
        (student, teacher, weight, weight.detach().clone(), theirs, center, *temperatures, "torch"),
    )
    logits = torch.randn(3, 2, 131, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(op.view_cross_entropy._opoverload, (logits, logits[:2].detach(), center, *temperatures))


@pytest.mark.parametrize("logits", [False, True])
def test_compiles_without_a_break(logits, gradients, close):
    student, teacher, weight, center, theirs = sample()
    arguments = (student, teacher, weight, center, theirs)
    if logits:
        arguments = ((student @ weight.T).detach().requires_grad_(), teacher @ weight.detach().T, None, center)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, *arguments), gradients(loss, *arguments), strict=True):
        close(actual, expected)


def test_another_temperature_does_not_compile_anew():
    arguments = sample()
    with torch.compiler.set_stance("default"):
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        temperature = torch.tensor(0.2, dtype=torch.float64)
        first = compiled(*arguments, temperatures=(0.5, temperature))
    with torch.compiler.set_stance("fail_on_recompile"):
        second = compiled(*arguments, temperatures=(0.5, temperature.fill_(0.1)))
    assert first.item() != second.item()


@pytest.mark.parametrize(
    ("dtypes", "width", "unavailable", "asked", "obstacle"),
    [
        ((torch.bfloat16, torch.float32), 256, None, False, None),
        ((torch.float16, torch.float32), 7, None, True, None),
        ((torch.bfloat16, torch.float32), 257, None, True, "the kernels take up to 256 features, not 257"),
        ((torch.bfloat16, torch.float64), 256, None, True, "the kernels add in fp32, and an argument is float64"),
        ((torch.bfloat16, torch.float32), 256, "Triton is not installed", True, "Triton is not installed"),
        ((torch.float32,) * 2, 256, None, True, None),
        ((torch.float32,) * 2, 256, None, False, "in fp32 PyTorch's products are taken unless ours are asked for"),
    ],
)
def test_the_rule_of_choice(dtypes, width, unavailable, asked, obstacle):
    assert op.obstacle(dtypes, width, unavailable, asked) == obstacle


@pytest.mark.parametrize(
    ("logits", "reason"),
    [(False, "Triton needs a CUDA device, not cpu"), (True, "logits that exist already are PyTorch's")],
)
def test_kernels_asked_for_in_vain_are_logged_with_the_reason(logits, reason, caplog):
    choice._note_once.cache_clear()
    student, teacher, weight, center, _ = sample()
    arguments = (student @ weight.T, teacher @ weight.T, None) if logits else (student, teacher, weight)
    with caplog.at_level(logging.WARNING), use("triton", "prototypes"):
        loss(*arguments, center)
    assert [r.getMessage() for r in caplog.records] == [f"prototypes: runs in plain PyTorch, because {reason}"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "shape", [(10, 2, 64, 256, 4096), (2, 2, 49, 256, 1000), (3, 1, 65, 37, 37), (4, 2, 1, 64, 65)]
)
def test_kernels_agree_with_float64_on_a_gpu(shape, dtype, gradients):
    student, teacher, weight, theirs = (F.normalize(x, dim=-1).to(dtype).cuda() for x in _rows(*shape))
    arguments = [student.requires_grad_(), teacher, weight.requires_grad_(), torch.randn(shape[4]).cuda() / 9, theirs]
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in arguments]
    with use("triton", "prototypes"):
        ours, again = (gradients(loss, *arguments, temperatures=(0.1, 0.04)) for _ in range(2))
    wanted = gradients(loss, *wide, temperatures=(0.1, 0.04), by=reference.prototype_cross_entropy)
    for actual, repeated, expected in zip(ours, again, wanted, strict=True):
        assert torch.equal(actual, repeated)
        apart = (actual.double() - expected).norm() / expected.norm()
        assert apart <= (5e-5 if dtype == torch.float32 else 2e-2)


def _rows(views, teachers, images, width, prototypes):
    shapes = (views, images, width), (teachers, images, width), (prototypes, width), (prototypes, width)
    return [torch.randn(shape) for shape in shapes]


@pytest.mark.gpu
def test_kernels_run_where_autocast_has_16_bits_and_wait_for_nothing():
    student, teacher, weight, _ = (x.cuda() for x in _rows(4, 2, 8, 64, 1000))
    temperature, center = torch.tensor(0.04).cuda(), torch.zeros(1000).cuda()
    arguments = student.requires_grad_(), teacher, weight.requires_grad_(), center
    with torch.autocast("cuda", torch.bfloat16):
        loss(*arguments, temperatures=(0.1, temperature)).backward()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss(*arguments, temperatures=(0.1, temperature)).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": torch.zeros(4, 7)}, r"student: float32 \[4, 7\] on cpu; must be a floating point.*\[V, B, d\]"),
        ({"student": torch.zeros(1, 3, 7)}, "student: .*with two views or more"),
        ({"teacher": torch.zeros(2, 2, 7)}, r"teacher: .*\[G, 3, 7\] with G from 1 to 4"),
        ({"teacher": torch.zeros(5, 3, 7)}, r"teacher: float32 \[5, 3, 7\].*from 1 to 4"),
        ({"teacher": torch.zeros(0, 3, 7)}, "teacher: "),
        ({"teacher": torch.zeros(2, 3, 7, device="meta")}, "teacher: .*must be on cpu, as student is"),
        ({"weight": torch.zeros(131, 6)}, r"weight: .*\[K, 7\]"),
        ({"weight": torch.zeros(0, 7)}, r"weight: .*with K from 1"),
        ({"weight": None}, "teacher_weight: .*must be None"),
        ({"teacher_weight": torch.zeros(130, 7)}, r"teacher_weight: .*of the shape of weight, \[131, 7\]"),
        ({"weight": None, "teacher_weight": None}, r"center: float64 \[131\].*must be \[7\]"),
        ({"center": torch.zeros(130)}, r"center: float32 \[130\].*\[131\]"),
        ({"center": torch.zeros(131, dtype=torch.int64)}, r"center: int64"),
        ({"student_temperature": 0.0}, "student_temperature: 0.0; must be greater than 0"),
        ({"teacher_temperature": float("nan")}, "teacher_temperature: nan"),
        ({"teacher_temperature": torch.ones(1)}, r"teacher_temperature: .*must be a number or a floating point"),
        ({"teacher_temperature": torch.ones((), device="meta")}, "teacher_temperature: .*must be on cpu"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    names = "student", "teacher", "weight", "center", "teacher_weight"
    arguments = dict(zip(names, sample(), strict=True), student_temperature=0.1, teacher_temperature=0.04)
    with pytest.raises(ValueError, match=message):
        prototype_cross_entropy(**{**arguments, **changes})
