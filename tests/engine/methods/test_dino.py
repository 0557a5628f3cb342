import copy
import math

import pytest
import torch
import torch.nn.functional as F

from vitkiln import kernels
from vitkiln.engine import optim
from vitkiln.engine.methods import find
from vitkiln.engine.methods.dino import koleo
from vitkiln.engine.settings import Encoder, dino
from vitkiln.engine.settings.lookup import settings_of
from vitkiln.engine.vocabulary import Batch, Moment

ENCODER = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "position": "learned",
    "init": "truncated_normal",
}
SMALL = {"local_crops": 2, "local_size": 16, "hidden": 32, "bottleneck": 16, "output": 24}


def method(encoder=None, **settings):
    torch.manual_seed(0)
    return find("dino")(dino.Settings(**{**SMALL, **settings}), Encoder(**{**ENCODER, **(encoder or {})}))


def updated(found, moment):
    """What comes after a backward pass, but for the update of the student."""
    if not hasattr(found, "frozen"):
        found.before_step(moment)
    found.after_backward()
    optim.follow(found.teachers(), found.pull(moment))


def awake(**settings):
    """In float64, with a teacher and a centre that have gone their own way."""
    found = method(**settings).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        found.center.normal_(std=0.1)
    return found


def batch(size=4, small=2, seed=(0, 5)):
    torch.manual_seed(2)
    sizes = [32, 32, *[16] * small]
    views = tuple(torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8) for side in sizes)
    return Batch(views, torch.arange(size), torch.tensor(seed))


def logits(encoder, head, view):
    """One crop by itself through encoder, head and prototypes."""
    features = F.normalize(head(encoder(view)[:, 0]), dim=1)
    return features @ (F.normalize(head.last.weight, dim=1) * (1 if head.gain is None else head.gain)).T


def answers(found, b):
    """Logits of the teacher for each large crop and of the student for each crop."""
    teacher = [logits(found.teacher, found.teacher_head, view) for view in b.views[:2]]
    return teacher, [logits(found.encoder, found.head, view) for view in b.views]


@pytest.mark.parametrize("small", [0, 1, 3])
@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_loss_is_the_mean_over_pairs_of_different_crops(small, norm_last_layer):
    found, b = awake(local_crops=small, norm_last_layer=norm_last_layer), batch(small=small)
    teacher, student = answers(found, b)
    pairs = [
        -(((t - found.center) / found.teacher_temperature).softmax(1) * (s / 0.1).log_softmax(1)).sum(1).mean()
        for g, t in enumerate(teacher)
        for v, s in enumerate(student)
        if g != v
    ]
    assert len(pairs) == 2 * (small + 1)
    torch.testing.assert_close(found(b).total, torch.stack(pairs).mean())


def test_uniform_answers_lose_ln_k():
    found = method(output=65_536)
    torch.nn.init.zeros_(found.head.layers[-1].weight)
    assert found(batch(2)).total.item() == pytest.approx(11.0904, abs=1e-3)


def test_a_constant_added_to_all_logits_changes_nothing():
    found, b = awake(), batch()
    before = found(b).total
    found.center.add_(3.0)
    torch.testing.assert_close(found(b).total, before)
    student, teacher = torch.randn(4, 2, 16).double(), torch.randn(2, 2, 16).double()
    ours, theirs = found.head.prototypes(), found.teacher_head.prototypes()
    shifted, plain = (
        kernels.prototype_cross_entropy(student, teacher, weight, found.center, 0.1, 0.04, theirs)
        for weight in (ours + torch.randn(16).double(), ours)
    )
    torch.testing.assert_close(shifted, plain)


@pytest.mark.parametrize(("small", "calls"), [(0, 1), (1, 2), (3, 2)])
def test_the_encoder_is_called_once_for_each_size_of_crop(small, calls):
    found, seen = method(local_crops=small), []
    found.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape))
    found(batch(small=small))
    assert [tuple(shape) for shape in seen] == [(8, 17, 32), (4 * small, 5, 32)][:calls]


def test_the_teacher_sees_the_large_crops_alone_and_gets_no_gradient():
    found, seen = method(), []
    found.teacher.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output[0].shape)))
    found(batch()).total.backward()
    assert seen == [(8, 17, 32)]
    assert all(p.grad is None for p in [*found.teacher.parameters(), *found.teacher_head.parameters()])
    assert all(p.grad is not None for p in [*found.encoder.parameters(), *found.head.parameters()])


def test_only_the_student_drops_branches():
    found, b, other = method({"drop_path": 0.5}), batch(), batch(seed=(0, 6))
    assert torch.equal(found.taught(b), found.taught(other))
    (first,), (second,) = found.small(b), found.small(other)
    assert not torch.equal(first, second)
    assert not torch.equal(found.branches(b), found.branches(other))


def test_the_center_after_one_step_is_a_tenth_of_the_mean_of_the_teachers_logits():
    found, b = awake(), batch()
    found.center.zero_()
    teacher, _ = answers(found, b)
    mean = torch.cat(teacher).mean(0)
    found(b)
    updated(found, Moment(1, 0.0, 0.0))
    torch.testing.assert_close(found.center, 0.1 * mean)


def test_a_step_is_centred_by_what_the_steps_before_have_left():
    found, b = awake(), batch()
    before = found.center.clone()
    assert torch.equal(found(b).total, found(b).total)
    assert torch.equal(found.center, before)


def test_micro_batches_move_the_center_once_and_together():
    whole, parts, b = awake(), awake(), batch()
    whole(b)
    for part in (slice(0, 2), slice(2, 4)):
        parts(Batch(tuple(view[part] for view in b.views), b.ids[part], b.seed))
    for found in (whole, parts):
        updated(found, Moment(1, 0.0, 0.0))
    torch.testing.assert_close(parts.center, whole.center)


def test_the_teacher_moves_only_by_momentum():
    found, b = awake(), batch()
    before = copy.deepcopy(found)
    found.before_step(Moment(50, 5.0, 0.5))
    found(b)
    updated(found, Moment(51, 5.1, 0.51))
    assert found.momentum == pytest.approx(0.998)
    for pair in (("teacher", "encoder"), ("teacher_head", "head")):
        teacher, student = (dict(getattr(before, name).named_parameters()) for name in pair)
        for name, value in getattr(found, pair[0]).named_parameters():
            torch.testing.assert_close(value, 0.998 * teacher[name] + 0.002 * student[name])
            assert not value.requires_grad


def test_equal_teacher_and_student_stay_equal_bit_for_bit():
    found = method()
    for _ in range(3):
        found(batch())
        updated(found, Moment(1, 0.0, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(found.teacher.parameters(), found.encoder.parameters(), strict=True))


@pytest.mark.parametrize(
    ("epoch", "temperature", "momentum", "frozen"),
    [
        (0.0, 0.04, 0.996, True),
        (0.99, 0.04099, None, True),
        (1.0, 0.041, None, False),
        (15.0, 0.055, None, False),
        (30.0, 0.07, None, False),
        (50.0, 0.07, 0.998, False),
        (100.0, 0.07, 1.0, False),
    ],
)
def test_schedules(epoch, temperature, momentum, frozen):
    found = method(teacher_temperature=0.07, warmup_teacher_epochs=30.0)
    found.before_step(Moment(0, epoch, epoch / 100))
    assert found.teacher_temperature.item() == pytest.approx(temperature, abs=1e-8)
    assert momentum is None or found.momentum == pytest.approx(momentum)
    assert found.frozen == frozen


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_the_last_layer_alone_learns_nothing_while_it_is_frozen(norm_last_layer):
    found = method(norm_last_layer=norm_last_layer)
    for epoch in (0.0, 1.0):
        found.before_step(Moment(0, epoch, 0.0))
        found(batch()).total.backward()
        found.after_backward()
        still = {name for name, parameter in found.head.named_parameters() if parameter.grad is None}
        assert still == ({"last.weight"} | (set() if norm_last_layer else {"gain"}) if epoch < 1 else set())


def test_the_student_learns_what_a_still_teacher_says():
    found, b = method(momentum=1.0, center_momentum=1.0), batch(8)
    with torch.no_grad():  # answers that differ from image to image
        found.teacher_head.layers[-1].weight.normal_()
    optimizer = torch.optim.AdamW([*found.encoder.parameters(), *found.head.parameters()], lr=3e-3, weight_decay=0.0)
    seen = []
    for _ in range(60):
        losses = found(b)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        updated(found, Moment(0, 1.0, 0.0))
        seen.append(losses.metrics["kl_from_teacher"].item())
    assert seen[-1] < 0.3 * seen[0]


def test_sinkhorn_gives_every_prototype_the_same_share():
    found, b = awake(centering="sinkhorn", output=4, teacher_temperature=0.2, warmup_teacher_temperature=0.2), batch(32)
    teacher, _ = answers(found, b)
    center = found.center_for(found.taught(b), found.teacher_head.prototypes())
    shares = ((torch.cat(teacher) - center) / 0.2).softmax(1).mean(0)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.25), atol=0.02, rtol=0)
    uncentred = (torch.cat(teacher) / 0.2).softmax(1).mean(0)
    assert (uncentred - 0.25).abs().max() > 0.1


def test_sinkhorn_has_no_memory():
    found, b = awake(centering="sinkhorn"), batch()
    before, total = found.center.clone(), found(b).total
    updated(found, Moment(1, 0.0, 0.0))
    assert torch.equal(found.center, before)
    found.center.zero_()
    torch.testing.assert_close(awake(centering="sinkhorn")(b).total, total)
    assert not torch.isclose(awake()(b).total, total)


def test_koleo_is_the_mean_log_distance_to_the_nearest_neighbour():
    torch.manual_seed(0)
    rows = torch.randn(6, 5, dtype=torch.float64)
    unit = rows / rows.norm(dim=1, keepdim=True)
    nearest = [min((unit[i] - unit[j]).norm() for j in range(6) if j != i) for i in range(6)]
    torch.testing.assert_close(koleo(rows), -torch.stack(nearest).log().mean(), atol=1e-6, rtol=0)


def test_koleo_joins_the_loss_for_each_large_crop_with_its_weight():
    found, b = awake(koleo=0.1), batch()
    tokens = [found.encoder(view)[:, 0] for view in b.views[:2]]
    losses = found(b)
    torch.testing.assert_close(losses.terms["koleo"], 0.1 * (koleo(tokens[0]) + koleo(tokens[1])))
    torch.testing.assert_close(losses.total, losses.terms["distillation"] + losses.terms["koleo"])
    assert list(awake()(b).terms) == ["distillation"]


def test_metrics_tell_an_answer_of_all_from_an_answer_of_one():
    found, b = method(), batch()
    torch.nn.init.zeros_(found.teacher_head.layers[-1].weight)
    assert found(b).metrics["teacher_entropy"].item() == pytest.approx(math.log(24), abs=1e-5)
    found.center[0] = -10.0
    metrics = found(b).metrics
    assert metrics["teacher_entropy"].item() == pytest.approx(0.0, abs=1e-5)
    assert metrics["center_norm"].item() == 10.0
    assert metrics["kl_from_teacher"].item() > 1.0


def test_bf16_loss_is_close_to_fp32():
    found, b = method(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = found(b).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, found(b).total, rtol=2e-2, atol=2e-2)


def test_views_are_two_large_ones_and_the_small_ones():
    first, second, *small = find("dino")(dino.Settings(output=8), Encoder(depth=1)).views()
    assert (first.blur, first.solarize) == (1.0, 0.0)
    assert (second.blur, second.solarize) == (0.1, 0.2)
    assert first.scale == second.scale == (0.4, 1.0)
    assert first.size == second.size == 224
    assert len(small) == 8
    assert {(v.size, v.scale, v.blur, v.solarize) for v in small} == {(96, (0.05, 0.4), 0.5, 0.0)}
    assert {view.interpolation for view in (first, second, *small)} == {"bicubic"}


def test_pictures_are_the_large_crops_and_the_small_ones():
    b = batch(4, 3)
    assert {name: tuple(p.shape) for name, p in method().pictures(b).items()} == {
        "globals": (2 * 32, 4 * 32, 3),
        "locals": (3 * 16, 4 * 16, 3),
    }
    assert list(method(local_crops=0).pictures(batch(4, 0))) == ["globals"]


def test_dilemma_hides_and_misplaces_the_large_crops_and_leaves_the_small_ones_whole():
    torch.manual_seed(0)
    values = {"name": "dilemma", "base": "dino", "keep": 0.5, "wrong_probability": 0.5, **SMALL}
    settings, _ = settings_of(values)
    found, seen = find("dilemma")(settings(**values), Encoder(**ENCODER)), {}

    def watch(block, who):
        block.register_forward_hook(lambda module, inputs, output: seen.setdefault(who, []).append(output[0].shape))

    watch(found.base.encoder.blocks[0], "student")
    watch(found.base.teacher.blocks[0], "teacher")
    losses = found(batch())
    assert {who: [tuple(shape) for shape in shapes] for who, shapes in seen.items()} == {
        "student": [(8, 9, 32), (8, 5, 32)],
        "teacher": [(8, 17, 32)],
    }
    assert set(losses.terms) == {"distillation", "detection"}
    assert set(found.pictures(batch())) == {"globals", "locals", "student"}
    assert found.backbone() is found.base.teacher
