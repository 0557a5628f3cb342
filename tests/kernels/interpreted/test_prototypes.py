"""The Triton kernels of prototype_cross_entropy against float64, at sizes that fill no tile."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels.prototypes import launch, op, prototype_cross_entropy, reference

SHAPES = [  # V, G, B, d, K
    (4, 2, 3, 7, 131),
    (2, 2, 1, 1, 1),
    (2, 1, 65, 16, 37),
    (3, 3, 33, 40, 65),
    (2, 2, 3, 256, 70),
]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def sample(views=4, teachers=2, images=3, width=7, prototypes=131, dtype=torch.float32) -> list[Tensor]:
    """student, teacher, weight, center, teacher_weight: features of length 1, prototypes of length 2"""
    shapes = [(views, images, width), (teachers, images, width), (prototypes, width), (prototypes, width)]
    student, teacher, weight, theirs = (F.normalize(torch.randn(shape), dim=-1) for shape in shapes)
    student, teacher, weight, theirs = (x.to(dtype) for x in (student, teacher, 2 * weight, 2 * theirs))
    return [student.requires_grad_(), teacher, weight.requires_grad_(), torch.randn(prototypes) / 3, theirs]


def loss(student, teacher, weight, center, teacher_weight=None, temperatures=(0.5, 0.2)) -> Tensor:
    with use("triton", "prototypes"):
        return prototype_cross_entropy(student, teacher, weight, center, *temperatures, teacher_weight)


def exact(gradients, arguments: list[Tensor], temperatures=(0.5, 0.2)) -> tuple[Tensor, ...]:
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in arguments]
    return gradients(lambda s, t, w, c, o=None: reference.prototype_cross_entropy(s, t, w, c, *temperatures, o), *wide)


def near(ours: tuple[Tensor, ...], wanted: tuple[Tensor, ...], tolerance: float) -> None:
    for actual, expected in zip(ours, wanted, strict=True):
        assert actual.isfinite().all()
        apart = (actual.double() - expected).norm()
        assert apart <= tolerance * expected.norm() + 1e-6, (apart / expected.norm()).item()


@pytest.fixture
def whole(monkeypatch):
    """Tiles of 16-bit types, small, whose products the interpreter takes in fp32."""

    def tile(dtype, width):
        return {"ROWS": 32, "PROTOTYPES": 64, **launch.whole(width), "num_warps": 4, "num_stages": 1}

    monkeypatch.setattr(launch, "softmax_tile", tile)
    monkeypatch.setattr(launch, "to_weight_tile", tile)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*((shape, kind) for shape in SHAPES for kind in (torch.float32, torch.bfloat16)), (SHAPES[0], torch.float16)],
)
def test_agrees_with_float64(shape, dtype, gradients, monkeypatch):
    monkeypatch.setattr(launch, "PROGRAMS", 8)
    arguments = sample(*shape, dtype)
    ours = gradients(loss, *arguments)
    assert [x.dtype for x in ours] == [torch.float32, dtype, dtype]
    near(ours, exact(gradients, arguments), TOLERANCE[dtype])


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("own_teacher", [True, False])
def test_rows_and_prototypes_in_any_number_of_tiles(own_teacher, gradients, monkeypatch):
    monkeypatch.setattr(launch, "PROGRAMS", 8)
    arguments = sample(2, 2, 35, 24, 1000 if own_teacher else 100)[: 5 if own_teacher else 4]
    near(gradients(loss, *arguments), exact(gradients, arguments), 1e-5)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_the_number_of_segments_does_not_change_the_sums(programs, gradients, monkeypatch):
    arguments = sample(prototypes=300)
    monkeypatch.setattr(launch, "PROGRAMS", programs)
    monkeypatch.setattr(launch, "LEAST_SEGMENTS", 1)
    near(gradients(loss, *arguments), exact(gradients, arguments), 1e-5)


@pytest.mark.parametrize(
    ("tiles", "prototypes", "segment"),
    [
        (1, 65_536, 512),
        (5, 65_536, 2528),
        (35, 65_536, 21_856),
        (132, 65_536, 65_536),
        (1000, 65_536, 21_856),
        (1056, 65_536, 65_536),
        (1, 37, 32),
    ],
)
def test_prototypes_are_cut_into_as_many_segments_as_fill_a_gpu(tiles, prototypes, segment):
    assert launch.segment(tiles, prototypes, 32) == segment


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("temperature", [0.04, 0.01])
def test_a_cold_teacher_is_read_exactly(temperature, gradients):
    arguments = sample(4, 2, 5, 32, 300)
    ours = gradients(loss, *arguments, temperatures=(0.1, temperature))
    near(ours, exact(gradients, arguments, (0.1, temperature)), 1e-4)


@pytest.mark.parametrize("tiles", ["whole", "pieces"])
@pytest.mark.parametrize("temperature", [0.04, 0.01])
def test_large_logits_do_not_overflow(temperature, tiles, gradients, request):
    if tiles == "whole":
        request.getfixturevalue("whole")
    student = torch.tensor([[[1e4, -1e4, 0, 1e4]], [[-1e4, 1e4, 0, 1e4]]], requires_grad=True)
    arguments = [student, student.detach().flip(0), torch.eye(4).requires_grad_(), torch.zeros(4)]
    wanted = exact(gradients, arguments, (0.1, temperature))
    for actual, expected in zip(gradients(loss, *arguments, temperatures=(0.1, temperature)), wanted, strict=True):
        assert torch.allclose(actual.double(), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.usefixtures("whole")
def test_a_target_that_is_met_leaves_nothing_to_learn():
    _, teacher, weight, *_ = sample(2, 2, 3, 32, 100)
    same = teacher[:1].expand(2, -1, -1).clone()
    total = loss(
        same.requires_grad_(), same.detach(), 20 * weight.detach().requires_grad_(), torch.zeros(100), None, (0.1, 0.1)
    )
    assert torch.autograd.grad(total, same)[0].abs().max() < 1e-5


@pytest.mark.usefixtures("whole")
def test_two_runs_agree_to_the_bit(gradients):
    arguments = sample(dtype=torch.bfloat16)
    pairs = zip(gradients(loss, *arguments), gradients(loss, *arguments), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.usefixtures("whole")
def test_prototypes_wider_than_features_are_rounded_and_their_gradient_is_not(gradients):
    student, teacher, weight, center, theirs = sample()
    half = student.detach().bfloat16().requires_grad_(), teacher, weight, center, theirs
    ours = gradients(loss, *half)
    assert [x.dtype for x in ours] == [torch.float32, torch.bfloat16, torch.float32]
    near(ours, exact(gradients, list(half)), TOLERANCE[torch.bfloat16])
    with torch.autocast("cpu", torch.bfloat16):
        cast = gradients(loss, student, teacher, weight, center, theirs)
    assert [x.dtype for x in cast] == [torch.float32] * 3
    near(cast, exact(gradients, [student, teacher, weight, center, theirs]), TOLERANCE[torch.bfloat16])


@pytest.mark.usefixtures("whole")
def test_a_weight_without_gradient_costs_no_product(called):
    student, teacher, weight, center, _ = sample()
    total = loss(student, teacher, weight.detach(), center)
    with called() as names:
        total.backward()
    assert student.grad is not None
    assert "prototype_cross_entropy_to_weight" not in names


def test_no_images_cost_nothing():
    student, teacher, weight, center, theirs = sample(images=0)
    total = loss(student, teacher, weight, center, theirs)
    total.backward()
    assert (total.item(), student.grad.shape) == (0, student.shape)
    assert not weight.grad.any()


@pytest.mark.usefixtures("whole")
def test_turned_inputs_are_read_right(gradients):
    arguments = sample()
    turned = [x.detach().mT.contiguous().mT.requires_grad_(x.requires_grad) if x.dim() > 1 else x for x in arguments]
    pairs = zip(gradients(loss, *turned), gradients(loss, *arguments), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.usefixtures("whole")
def test_registration():
    student, teacher, weight, center, theirs = sample(2, 1, 2, 7, 37)
    inputs = student, teacher, weight, weight.detach().clone(), theirs, center, torch.tensor(0.5), torch.tensor(0.2)
    torch.library.opcheck(op._forward._opoverload, (*inputs, "triton"))


@pytest.mark.usefixtures("whole")
def test_compiles_without_a_break_and_follows_a_temperature(gradients):
    arguments, temperature = sample(dtype=torch.float16), torch.tensor(0.2)
    compiled = torch.compile(prototype_cross_entropy, backend="aot_eager", fullgraph=True)
    with torch.compiler.set_stance("default"), use("triton"):
        ours = gradients(lambda s, t, w, c, o: compiled(s, t, w, c, 0.5, temperature, o), *arguments)
    near(ours, exact(gradients, arguments), TOLERANCE[torch.float16])
    with torch.compiler.set_stance("fail_on_recompile"), use("triton"):
        colder = compiled(
            *(x.detach() if x is arguments[1] else x for x in arguments[:4]), 0.5, temperature.fill_(0.1), arguments[4]
        )
    assert colder.item() == pytest.approx(loss(*arguments, temperatures=(0.5, 0.1)).item(), rel=1e-3)
