import json

import pytest
import torch
from torch import nn

from vitkiln.engine import checkpoint, optim
from vitkiln.engine.errors import MissingBackend
from vitkiln.engine.settings import Optim

CPU = torch.device("cpu")


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))


def with_gradients(module, scale=1.0):
    for index, parameter in enumerate(module.parameters()):
        parameter.grad = scale * (index + 1) * torch.ones_like(parameter)
    return module


@pytest.mark.parametrize(("scale", "expected"), [(256, 6e-4), (512, 3e-4), (None, 1.5e-4)])
def test_linear_rule(scale, expected):
    assert optim.effective_lr(Optim(lr=1.5e-4, lr_scale=scale), 1024) == pytest.approx(expected)


def test_adamw_decays_everything_by_default_and_vectors_not_when_told():
    everything = optim.build(Optim(), model(), 0.1, CPU)
    assert [len(group["params"]) for group in everything.param_groups] == [4]
    apart = optim.build(Optim(decay_1d=False, weight_decay=0.3), model(), 0.1, CPU)
    assert [(len(g["params"]), g["weight_decay"]) for g in apart.param_groups] == [(1, 0.3), (3, 0.0)]


def test_rate_lives_in_a_tensor_and_moves_the_weights():
    module = with_gradients(model())
    optimizer = optim.build(Optim(weight_decay=0.0), module, 0.1, CPU)
    before = [p.clone() for p in module.parameters()]
    optim.set_rate(optimizer, 0.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    optim.set_rate(optimizer, 0.01)
    optimizer.step()
    moved = [(a - b).abs().max().item() for a, b in zip(before, module.parameters(), strict=True)]
    assert moved == pytest.approx([0.01] * 4, rel=1e-3)


def test_adamw_equals_pytorchs_plain_one():
    ours, theirs = with_gradients(model()), with_gradients(model())
    mine = optim.build(Optim(lr=1.0, weight_decay=0.1), ours, 0.01, CPU)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False)
    for _ in range(3):
        mine.step()
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_lars_is_the_published_update():
    module = with_gradients(model())
    weight, bias = module[0].weight.detach().clone(), module[0].bias.detach().clone()
    optimizer = optim.build(Optim(name="lars", weight_decay=0.5), module, 0.1, CPU)
    momentum = torch.zeros_like(weight)
    for _ in range(2):
        optimizer.step()
        decayed = torch.ones_like(weight) + 0.5 * weight
        momentum = 0.9 * momentum + 0.001 * weight.norm() / decayed.norm() * decayed
        weight = weight - 0.1 * momentum
    torch.testing.assert_close(module[0].weight.detach(), weight)
    torch.testing.assert_close(module[0].bias.detach(), bias - 0.1 * 2 * (1 + 1.9))  # no decay, no trust ratio


def test_lars_takes_a_ratio_of_one_for_a_zero_weight():
    module = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(module.weight)
    module.weight.grad = torch.ones(2, 2)
    optim.build(Optim(name="lars"), module, 0.1, CPU).step()
    torch.testing.assert_close(module.weight.detach(), torch.full((2, 2), -0.1))


def test_clip_bounds_the_norm_of_the_whole_model():
    module = with_gradients(model(), 10)
    before = torch.cat([p.grad.flatten() for p in module.parameters()])
    grads = [p.grad for p in module.parameters()]
    norm, factors = optim.clip(grads, Optim(clip=1.0))
    after = torch.cat([(grad * factor).flatten() for grad, factor in zip(grads, factors, strict=True)])
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(after, before / before.norm(), atol=1e-5, rtol=1e-5)


def test_clip_bounds_each_tensor_by_itself():
    module = with_gradients(model(), 10)
    module[0].weight.grad *= 1e-3
    grads = [p.grad for p in module.parameters()]
    _, factors = optim.clip(grads, Optim(clip=3.0, clip_per="tensor"))
    norms = [(factor * grad.norm()).item() for grad, factor in zip(grads, factors, strict=True)]
    assert norms[1:] == pytest.approx([3.0] * 3, rel=1e-4)
    assert factors[0] == 1


def test_no_clip_leaves_gradients_alone():
    module = with_gradients(model(), 10)
    norm, factors = optim.clip([p.grad for p in module.parameters()], Optim())
    assert factors is None
    torch.testing.assert_close(norm, torch.cat([p.grad.flatten() for p in module.parameters()]).norm())


BACKENDS = [("adamw", "one_pass"), ("adamw", "torch"), ("lars", "one_pass"), ("lars", "torch"), ("sgd", "torch")]


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_a_gradient_that_is_not_finite_moves_nothing(name, backend):
    settings, module = Optim(name=name, backend=backend, clip=1.0), with_gradients(model())
    optimizer = optim.build(settings, module, 0.1, CPU)
    assert optim.step(optimizer, settings)[1] == 0
    before = [p.clone() for p in module.parameters()]
    with_gradients(module, float("nan"))
    assert optim.step(optimizer, settings)[1] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    with_gradients(module)
    optim.step(optimizer, settings)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def runs(backend, steps=4, **settings):
    """A module that learns, one layer of it from the third step on, and a teacher of half of it."""
    torch.manual_seed(0)
    module, teacher = nn.Sequential(nn.Linear(40, 30), nn.GELU(), nn.Linear(30, 7)), nn.Linear(40, 30)
    settings = Optim(backend=backend, **settings)
    optimizer = optim.build(settings, module, 0.02, CPU)
    following = dict(zip(module[0].parameters(), teacher.parameters(), strict=True))
    norms = []
    for step in range(steps):
        module(torch.randn(16, 40, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        if step < 2:
            module[2].weight.grad = None
        optim.set_rate(optimizer, 0.02 / (1 + step))
        norms.append(optim.step(optimizer, settings, following, 0.1)[0])
    return [*module.parameters(), *teacher.parameters(), torch.stack(norms)]


@pytest.mark.parametrize("name", ["adamw", "lars"])
@pytest.mark.parametrize("more", [{}, {"clip": 0.5}, {"clip": 0.5, "clip_per": "tensor", "decay_1d": False}])
def test_one_pass_moves_as_three_do(name, more):
    for one, other in zip(runs("one_pass", name=name, **more), runs("torch", name=name, **more), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_teacher_follows_though_the_weight_has_no_gradient():
    module, teacher = model(), model()
    settings = Optim(backend="one_pass")
    optimizer = optim.build(settings, module, 0.1, CPU)
    with_gradients(module)
    module[0].weight.grad = None
    before = teacher[0].weight.detach().clone()
    with torch.no_grad():
        module[0].weight.add_(1.0)
    optim.step(optimizer, settings, {module[0].weight: teacher[0].weight}, 0.25)
    torch.testing.assert_close(teacher[0].weight, before.lerp(module[0].weight, 0.25))


def test_nvidias_apex_is_named_where_it_is_missing():
    with pytest.raises(MissingBackend, match=r"optim\.backend=apex: NVIDIA's apex is not installed"):
        optim.build(Optim(backend="apex"), model(), 0.1, CPU)


@pytest.mark.parametrize(("name", "backend"), [("sgd", "one_pass"), ("sgd", "apex"), ("lars", "apex")])
def test_a_backend_that_has_no_such_optimiser_is_refused(name, backend):
    with pytest.raises(ValueError, match=f"{backend}.*must be auto.* or torch"):
        Optim(name=name, backend=backend)


def encoder(depth=3):
    torch.manual_seed(0)
    module = nn.Module()
    module.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
    module.patch_embed = nn.Linear(4, 4)
    module.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
    module.norm = nn.LayerNorm(4)
    return module


def test_layer_decay_is_maes_rule():
    """Rates of tokens and patches ld^(depth+1), of block i ld^(depth-i), of the norm and of the head 1."""
    whole = nn.ModuleDict({"encoder": encoder(), "head": nn.Linear(4, 2)})
    optimizer = optim.build(Optim(layer_decay=0.5), whole, 0.8, CPU, whole["encoder"])
    optim.set_rate(optimizer, 0.8)
    rates = {p: g["lr"].item() for g in optimizer.param_groups for p in g["params"]}
    found = {name: rates[p] for name, p in whole.named_parameters() if not name.endswith("bias")}
    assert found == {
        "encoder.cls_token": pytest.approx(0.05),
        "encoder.patch_embed.weight": pytest.approx(0.05),
        "encoder.blocks.0.weight": pytest.approx(0.1),
        "encoder.blocks.1.weight": pytest.approx(0.2),
        "encoder.blocks.2.weight": pytest.approx(0.4),
        "encoder.norm.weight": pytest.approx(0.8),
        "head.weight": pytest.approx(0.8),
    }


def test_weight_decay_follows_a_cosine_and_leaves_vectors_alone():
    settings = Optim(weight_decay=0.04, final_weight_decay=0.4, decay_1d=False)
    optimizer = optim.build(settings, model(), 0.1, CPU)
    seen = []
    for position in (0, 50, 100):
        optim.set_decay(optimizer, settings, position, 100)
        seen.append([float(group["weight_decay"]) for group in optimizer.param_groups])
    assert seen == [[pytest.approx(decay), 0.0] for decay in (0.04, 0.22, 0.4)]


def test_a_constant_decay_is_left_alone():
    optimizer = optim.build(Optim(weight_decay=0.3), model(), 0.1, CPU)
    optim.set_decay(optimizer, Optim(weight_decay=0.3), 70, 100)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3]


def test_sgd_equals_pytorchs_plain_one():
    ours, theirs = with_gradients(model()), with_gradients(model())
    mine = optim.build(Optim(name="sgd", weight_decay=0.1, momentum=0.9), ours, 0.01, CPU)
    plain = torch.optim.SGD(theirs.parameters(), lr=0.01, weight_decay=0.1, momentum=0.9)
    for _ in range(3):
        mine.step()
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("first", "second"), [("one_pass", "torch"), ("torch", "one_pass"), ("one_pass", "one_pass")])
def test_a_checkpoint_of_one_backend_goes_on_in_another(first, second):
    """What follows from the step is not kept, and the tensors that hold it stay the same ones."""
    settings = {"weight_decay": 0.04, "final_weight_decay": 0.4}
    one, other = (Optim(backend=backend, **settings) for backend in (first, second))
    module, again = with_gradients(model()), with_gradients(model())
    saved, here = optim.build(one, module, 0.1, CPU), optim.build(other, again, 0.1, CPU)
    optim.set_decay(saved, one, 50, 100)
    optim.step(saved, one)
    tensors, groups = checkpoint.flatten(saved)
    before = [(group["lr"], group["weight_decay"]) for group in here.param_groups]
    checkpoint.unflatten(here, tensors, json.loads(json.dumps(groups)))
    for group, (rate, decay) in zip(here.param_groups, before, strict=True):
        assert group["lr"] is rate
        assert group["weight_decay"] is decay or second == "torch"
    again.load_state_dict(module.state_dict())
    for optimizer, side, of in ((saved, one, module), (here, other, again)):
        with_gradients(of)
        optim.set_rate(optimizer, 0.05)
        optim.set_decay(optimizer, side, 70, 100)
        optim.step(optimizer, side)
    for a, b in zip(module.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
