import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from vitkiln.engine import optim
from vitkiln.engine.methods import find
from vitkiln.engine.settings import Encoder, dilemma
from vitkiln.engine.settings.sections import kept
from vitkiln.engine.vocabulary import Batch, Moment

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2)
SMALL = {
    "mocov3": {"hidden": 64, "output": 16},
    "dino": {"hidden": 32, "bottleneck": 16, "output": 24, "local_crops": 2, "local_size": 16},
    "simclr": {"hidden": 64, "output": 16},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
}
STUDENT = {"mocov3": 2, "dino": 2, "simclr": 2, "mae": 1}


def method(base="mocov3", **more):
    torch.manual_seed(0)
    return find("dilemma")(dilemma.over(base)(**SMALL[base], **more), ENCODER)


def alone(base, **more):
    torch.manual_seed(0)
    return find(base)(import_module(f"vitkiln.engine.settings.{base}").Settings(**SMALL[base], **more), ENCODER)


def batch(size=6, sizes=(32, 32)):
    torch.manual_seed(1)
    views = tuple(torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8) for side in sizes)
    return Batch(views, torch.arange(size), torch.tensor([0, 5]))


def batch_for(whom, size=6):
    return batch(size, [view.size for view in whom.views()])


@pytest.mark.parametrize("base", SMALL)
def test_nothing_wrong_and_nothing_more_dropped_is_the_base(base):
    """MAE drops by itself, and DILEMMA over it as much."""
    ours = method(base, keep=0.25 if base == "mae" else 1.0, wrong_probability=0.0)
    theirs = alone(base)
    theirs.load_state_dict({name.removeprefix("base."): value for name, value in ours.state_dict().items()})
    b = batch_for(ours)
    mine, its = ours(b), theirs(b)
    torch.testing.assert_close(mine.total, its.total, atol=1e-6, rtol=1e-6)
    mine.total.backward()
    its.total.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.base.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            apart = (parameter.grad - gradients[name].grad).norm()
            assert apart <= 1e-3 * gradients[name].grad.norm() + 1e-6, name


@pytest.mark.parametrize("base", SMALL)
def test_its_student_sees_in_part_what_the_base_allows_and_says_what_is_wrong(base):
    ours, seen = method(base, keep=0.25), []
    ours.base.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape[:2]))
    losses = ours(batch_for(ours))
    assert seen[0] == (6 * STUDENT[base], 1 + 4)
    assert "detection" in losses.terms
    assert ours.plan(batch_for(ours)).wrong.shape == (6 * STUDENT[base], 4)
    losses.total.backward()
    assert ours.detector.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("base", SMALL)
def test_every_part_that_learns_gets_a_gradient_and_nothing_else_does(base):
    ours = method(base)
    ours.before_step(Moment(0, 5.0, 0.5))
    ours(batch_for(ours)).total.backward()
    ours.after_backward()
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_small_crops_of_dino_are_seen_whole():
    ours, seen = method("dino", keep=0.25), []
    ours.base.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape[:2]))
    ours(batch_for(ours))
    assert seen == [(12, 1 + 4), (12, 1 + 4)]  # 4 of 16 patches twice, and all 4 of two small crops


def test_maes_decoder_is_not_misled():
    """Wherever the encoder is told that its patches are, a decoder that ignores it sees the same."""
    ours = method("mae", keep=0.5, wrong_probability=1.0)
    ours.base.encoder.pos_embed.data.zero_()  # places mean nothing to the encoder
    theirs = alone("mae", keep=0.5)
    theirs.load_state_dict(ours.base.state_dict())
    b = batch_for(ours)
    torch.testing.assert_close(ours(b).terms["reconstruction"], theirs(b).total, atol=1e-6, rtol=1e-6)


def test_total_is_base_plus_weighted_detection():
    losses = method(weight=0.4)(batch())
    torch.testing.assert_close(losses.terms["detection"], 0.4 * losses.metrics["detection_loss"])
    torch.testing.assert_close(losses.total, losses.terms["contrast"] + losses.terms["detection"])


def test_a_head_at_zero_loses_ln_2():
    dilemma_ = method()
    torch.nn.init.zeros_(dilemma_.detector.weight)
    torch.nn.init.zeros_(dilemma_.detector.bias)
    assert dilemma_(batch()).metrics["detection_loss"].item() == pytest.approx(math.log(2), abs=1e-6)


def test_the_best_constant_loses_the_entropy_of_the_rate():
    dilemma_ = method(keep=0.5)
    torch.nn.init.zeros_(dilemma_.detector.weight)
    torch.nn.init.constant_(dilemma_.detector.bias, math.log(0.2 / 0.8))
    seen = [dilemma_(Batch(batch().views, torch.arange(6), torch.tensor([0, step]))) for step in range(40)]
    mean = torch.stack([losses.metrics["detection_loss"] for losses in seen]).mean().item()
    assert mean == pytest.approx(0.5004, abs=0.03)


def test_no_head_where_nothing_is_wrong():
    without = method(wrong_probability=0.0)
    assert without.detector is None
    assert list(without(batch()).terms) == ["contrast"]


def test_student_sees_few_tokens_and_the_teacher_all():
    dilemma_, seen = method(keep=0.25), {}

    def watch(block, who):
        block.register_forward_hook(lambda module, inputs, output: seen.update({who: output[0].shape[1]}))

    watch(dilemma_.base.encoder.blocks[0], "student")
    watch(dilemma_.base.teacher[0].blocks[0], "teacher")
    dilemma_(batch())
    assert seen == {"student": 5, "teacher": 17}


def test_plans_differ_between_views_and_steps_and_follow_the_sample():
    dilemma_, b = method(), batch()
    first, second = dilemma_.plan(b).keep.chunk(2)
    later, _ = dilemma_.plan(Batch(b.views, b.ids, torch.tensor([0, 6]))).keep.chunk(2)
    part, _ = dilemma_.plan(Batch(b.views, b.ids[2:4], b.seed)).keep.chunk(2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, later)
    assert torch.equal(first[2:4], part)


def test_wrong_places_are_those_of_dropped_patches():
    plan = method(keep=0.5, wrong_probability=0.5).plan(batch())
    for keep, place, wrong in zip(plan.keep, plan.place, plan.wrong, strict=True):
        assert not set(place[wrong].tolist()) & set(keep.tolist())
        assert torch.equal(place[~wrong], keep[~wrong])


def test_only_the_student_learns_and_the_teacher_follows():
    dilemma_ = method()
    dilemma_(batch()).total.backward()
    assert all(p.grad is None for p in dilemma_.base.teacher.parameters())
    assert dilemma_.detector.weight.grad.abs().sum() > 0


def test_pictures_show_what_is_kept_and_what_is_wrong():
    b = batch()
    b = Batch(tuple(torch.full_like(view, 200) for view in b.views), b.ids, b.seed)
    dilemma_ = method(keep=0.5, wrong_probability=0.5)
    picture = dilemma_.pictures(b)["student"]
    assert {"student", "views"} == set(dilemma_.pictures(b))
    assert picture.shape == (4 * 32, 6 * 32, 3)
    plan, student = dilemma_.plan(b), picture[32:64, :32]
    for patch in range(16):
        row, column = divmod(patch, 4)
        pixel = student[row * 8, column * 8].tolist()
        at = (plan.keep[0] == patch).nonzero()
        expected = [128] * 3 if not len(at) else [227, 100, 100] if plan.wrong[0, at[0, 0]] else [200] * 3
        assert pixel == expected


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        (0.25, 147),
        (0.3, 137),
        (0.4, 117),
        (0.5, 98),
        (0.6, 78),
        (0.7, 58),
        (0.75, 49),
        (0.8, 39),
        (0.9, 19),
        (0.0, 196),
    ],
)
def test_kept_is_the_published_expression(drop, expected):
    assert kept(196, 1 - drop) == expected


def test_kept_truncates_as_floats_do():
    assert kept(100, 0.1) == 9
    assert (kept(36, 0.25), kept(64, 0.25)) == (9, 16)


def test_it_learns_one_batch():
    torch.manual_seed(0)
    dilemma_, b = method(keep=0.5), batch(8)
    optimizer = torch.optim.AdamW(dilemma_.parameters(), lr=1e-3)
    seen = []
    for _ in range(40):
        losses = dilemma_(b)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        optim.follow(dilemma_.teachers(), dilemma_.pull(Moment(0, 0.0, 0.5)))
        seen.append(losses.total.item())
    assert seen[-1] < 0.6 * seen[0]


def test_interpreted_kernels_give_the_loss_and_gradients_of_their_references():
    pytest.importorskip("triton")
    script = Path(__file__).parents[1] / "interpreted.py"
    settings = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
    ran = subprocess.run([sys.executable, script], env=settings, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
