import copy
import math

import pytest
import torch
import torch.nn.functional as F

from vitkiln.engine import optim
from vitkiln.engine.methods import find
from vitkiln.engine.settings import Encoder, mocov3
from vitkiln.engine.vocabulary import Batch, Moment

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2, freeze_patch_embed=True)
SETTINGS = mocov3.Settings(hidden=64, output=16)


def method():
    torch.manual_seed(0)
    return find("mocov3")(SETTINGS, ENCODER)


def batch(size=6):
    torch.manual_seed(1)
    views = tuple(torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8) for _ in range(2))
    return Batch(views, torch.arange(size), torch.tensor([0, 5]))


def test_loss_is_the_published_one():
    moco, b = method(), batch()
    q = [moco.predictor(moco.projector(moco.encoder(view)[:, 0])) for view in b.views]
    k = [moco.projector(moco.encoder(view)[:, 0]) for view in b.views]  # the teacher begins as a copy

    def ctr(query, key):
        logits = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / 0.2
        return F.cross_entropy(logits, torch.arange(6)) * 2 * 0.2

    torch.testing.assert_close(moco(b).total, ctr(q[0], k[1]) + ctr(q[1], k[0]), atol=1e-5, rtol=1e-5)


def test_swapping_the_views_changes_nothing():
    moco, b = method(), batch()
    swapped = Batch(b.views[::-1], b.ids, b.seed)
    torch.testing.assert_close(moco(b).total, moco(swapped).total)


def test_uniform_logits_give_the_tabled_loss():
    moco = method()
    same = torch.ones(256, 16)
    loss = moco.contrast(same, same) + moco.contrast(same, same)
    assert loss.item() == pytest.approx(4 * 0.2 * math.log(256), abs=1e-4)  # 4.4361


def test_the_teacher_gets_no_gradient_and_moves_only_by_momentum():
    moco = method()
    moco(batch()).total.backward()
    assert all(p.grad is None for p in moco.teacher.parameters())
    assert all(p.grad is not None for p in moco.predictor.parameters())
    with torch.no_grad():
        for parameter in moco.encoder.parameters():
            parameter.add_(1.0)
    before = copy.deepcopy(moco.teacher)
    optim.follow(moco.teachers(), moco.pull(Moment(0, 0.0, 0.0)))
    for name, parameter in moco.teacher[0].named_parameters():
        expected = before[0].get_parameter(name).lerp(moco.encoder.get_parameter(name), 1 - 0.99)
        torch.testing.assert_close(parameter, expected)


def test_momentum_reaches_one_at_the_end():
    moco = method()
    with torch.no_grad():
        moco.encoder.cls_token.add_(1.0)
    before = moco.teacher[0].cls_token.clone()
    optim.follow(moco.teachers(), moco.pull(Moment(1, 1.0, 1.0)))
    assert torch.equal(moco.teacher[0].cls_token, before)


def test_equal_teacher_and_student_stay_equal_bit_for_bit():
    weights = torch.randn(1000)
    teacher = weights.clone()
    for _ in range(500):
        optim.follow({weights: teacher}, 0.01)
    assert torch.equal(teacher, weights)


def test_constant_student_gives_the_closed_form():
    student, start = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    teacher = start.clone()
    for _ in range(10):
        optim.follow({student: teacher}, 0.1)
    torch.testing.assert_close(teacher, student + 0.9**10 * (start - student))


def test_two_images_are_the_smallest_batch_and_give_a_finite_loss():
    assert torch.isfinite(method()(batch(2)).total)


def test_views_are_mocos_two():
    first, second = find("mocov3")(mocov3.Settings(), ENCODER).views()
    assert (first.blur, first.solarize) == (1.0, 0.0)
    assert (second.blur, second.solarize) == (0.1, 0.2)
    assert first.scale == second.scale == (0.08, 1.0)


def test_bf16_loss_is_close_to_fp32():
    moco, b = method(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = moco(b).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, moco(b).total, rtol=1e-2, atol=1e-2)


def test_drop_path_is_a_function_of_seed_step_and_sample():
    torch.manual_seed(0)
    moco = find("mocov3")(SETTINGS, ENCODER.model_copy(update={"drop_path": 0.5}))
    b = batch()
    first, second = moco.branches(b).chunk(2)
    part, _ = moco.branches(Batch(b.views, b.ids[3:], b.seed)).chunk(2)
    assert torch.equal(first[3:], part)
    assert (first == 0).any()
    assert not torch.equal(first, second)
