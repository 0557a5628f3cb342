"""detection_loss: which tokens were told a wrong place, as a logistic regression on each."""

import logging
import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import detection_loss, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.detection_loss import op, reference

SHAPES = [(2, 4, 5), (1, 197, 5), (3, 1, 8), (1, 1, 1)]  # B, K, D


def sample(batch=2, kept=4, width=5, dtype=torch.float64) -> tuple[Tensor, ...]:
    tokens = torch.randn(batch, kept, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(width, dtype=dtype, requires_grad=True)
    bias = torch.randn((), dtype=dtype, requires_grad=True)
    return tokens, weight, bias, torch.rand(batch, kept) < 0.4


def loop(tokens: Tensor, weight: Tensor, bias: Tensor, wrong: Tensor) -> tuple[float, float]:
    losses, right = [], []
    for token, label in zip(tokens.detach().flatten(0, 1).double(), wrong.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-float(token @ weight.detach().double() + bias.detach().double())))
        losses.append(-math.log(probability if label else 1 - probability))
        right.append((probability > 0.5) == label)
    return sum(losses) / len(losses), sum(right) / len(right)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_means_what_a_loop_says(implementation):
    arguments = sample()
    with use(implementation):
        loss, accuracy = detection_loss(*arguments)
    assert (loss.item(), accuracy.item()) == pytest.approx(loop(*arguments))


@pytest.mark.parametrize("shape", SHAPES)
def test_operator_equals_reference_forward_and_backward(shape, gradients, close):
    arguments = sample(*shape)
    theirs = gradients(reference.detection_loss, *arguments)
    for actual, expected in zip(gradients(detection_loss, *arguments), theirs, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_tokens_are_judged_in_fp32(dtype, gradients, close):
    narrow = sample(3, 16, 32, dtype)
    wide = [a.detach().double().requires_grad_() if a.is_floating_point() else a for a in narrow]
    ours, theirs = gradients(detection_loss, *narrow), gradients(detection_loss, *wide)
    assert ours[0].dtype == torch.float32
    close(ours[0], theirs[0])
    for actual, expected in zip(ours[1:], theirs[1:], strict=True):
        close(actual, expected * (ours[0] / theirs[0]), dtype)


def test_gradients_are_the_derivatives():
    tokens, weight, bias, wrong = sample()
    assert torch.autograd.gradcheck(lambda *a: detection_loss(*a, wrong)[0], (tokens, weight, bias))


def test_a_head_of_zeros_knows_nothing():
    tokens, weight, bias, wrong = sample(dtype=torch.float32)
    loss, accuracy = detection_loss(tokens, torch.zeros_like(weight), torch.zeros_like(bias), wrong)
    assert loss.item() == pytest.approx(math.log(2))
    assert accuracy.item() == pytest.approx(1 - wrong.float().mean().item())


@pytest.mark.parametrize(("share", "floor"), [(0.1, 0.3251), (0.15, 0.4227), (0.2, 0.5004), (0.25, 0.5623)])
def test_the_best_constant_costs_the_entropy_of_the_labels(share, floor):
    tokens, wrong = torch.zeros(1, 1000, 2), (torch.arange(1000) < 1000 * share)[None]
    loss, accuracy = detection_loss(tokens, torch.zeros(2), torch.logit(torch.tensor(share)), wrong)
    assert round(loss.item(), 4) == floor
    assert accuracy.item() == pytest.approx(1 - share)


def test_confident_errors_stay_finite():
    tokens, wrong = torch.full((1, 2, 1), 1e4), torch.tensor([[True, False]])
    loss, accuracy = detection_loss(tokens, torch.ones(1), torch.zeros(()), wrong)
    assert (loss.item(), accuracy.item()) == (5000.0, 0.5)


def test_accuracy_has_no_gradient():
    loss, accuracy = detection_loss(*sample())
    assert loss.requires_grad
    assert not accuracy.requires_grad


def test_a_bias_of_one_element_serves_as_well():
    tokens, weight, bias, wrong = sample()
    row = bias.detach()[None].requires_grad_()
    loss, _ = detection_loss(tokens, weight, row, wrong)
    loss.backward()
    assert torch.equal(loss, detection_loss(tokens, weight, bias, wrong)[0])
    assert row.grad.shape == (1,)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5)])
def test_no_tokens_cost_nothing(shape, gradients):
    loss, tokens, weight, bias = gradients(detection_loss, *sample(*shape))
    assert (loss.item(), bias.item(), weight.abs().sum().item(), tokens.numel()) == (0, 0, 0, 0)


def test_strides_do_not_matter(gradients, close):
    tokens, weight, bias, wrong = sample()
    turned = tokens.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    ours = gradients(detection_loss, turned, one.expand(5), bias, wrong.T.contiguous().T)
    theirs = gradients(reference.detection_loss, tokens, torch.ones_like(weight), bias, wrong)
    close(ours[0], theirs[0])
    close(ours[1], theirs[1])


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_does_not_narrow_it(implementation):
    arguments = sample(4, 50, 64, torch.float32)
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        loss, _ = detection_loss(*arguments)
    assert loss.item() == pytest.approx(loop(*arguments)[0], rel=1e-6)


def test_registration():
    torch.library.opcheck(torch.ops.vitkiln.detection_loss.default, (*sample(), "torch"))


def test_compiles_without_a_break(gradients, close):
    arguments = sample()
    compiled = torch.compile(detection_loss, backend="aot_eager", fullgraph=True)
    theirs = gradients(detection_loss, *arguments)
    for actual, expected in zip(gradients(compiled, *arguments), theirs, strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("dtypes", "width", "unavailable", "obstacle"),
    [
        ((torch.bfloat16, torch.float32), 4096, None, None),
        ((torch.float32, torch.float32), 384, None, None),
        ((torch.bfloat16, torch.float32), 4097, None, "the kernel takes up to 4096 channels, not 4097"),
        ((torch.bfloat16, torch.float64), 384, None, "the kernel adds in fp32, and an argument is float64"),
        ((torch.bfloat16, torch.float32), 384, "Triton is not installed", "Triton is not installed"),
    ],
)
def test_the_rule_of_choice(dtypes, width, unavailable, obstacle):
    assert op.obstacle(dtypes, width, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "detection_loss"):
        detection_loss(*sample())
    said = [r.getMessage() for r in caplog.records]
    assert said == ["detection_loss: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 49, 384), (3, 197, 768), (1, 1, 37), (1, 65, 4096)])
def test_agrees_with_float64_on_a_gpu(shape, dtype, implementation, gradients, close):
    tokens, weight, bias, wrong = sample(*shape, torch.float32)
    head = (x.detach().cuda().requires_grad_() for x in (weight, bias))
    arguments = tokens.detach().to("cuda", dtype).requires_grad_(), *head, wrong.cuda()
    wide = [a.detach().double().requires_grad_() if a.is_floating_point() else a for a in arguments]
    with use(implementation, "detection_loss"):
        ours, again = gradients(detection_loss, *arguments), gradients(detection_loss, *arguments)
    theirs = gradients(reference.detection_loss, *wide)
    for actual, repeated, expected in zip(ours, again, theirs, strict=True):
        assert torch.equal(actual, repeated)
        close(actual, expected, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.zeros(4, 5)}, r"tokens: float32 \[4, 5\] on cpu; .*\[B, K, D\]"),
        (
            {"weight": torch.zeros(1, 5)},
            r"weight: float32 \[1, 5\] on cpu; must be a floating point tensor \[5\]",
        ),
        ({"bias": torch.zeros(2)}, r"bias: .*\[\] or \[1\]"),
        ({"wrong": torch.zeros(2, 4)}, r"wrong: float32 .*bool \[2, 4\]"),
        ({"wrong": torch.zeros(2, 3, dtype=torch.bool)}, r"wrong: bool \[2, 3\]"),
        ({"weight": torch.zeros(5, device="meta")}, "weight: .*must be on cpu, as tokens is"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = dict(zip(("tokens", "weight", "bias", "wrong"), sample(), strict=True))
    with pytest.raises(ValueError, match=message):
        detection_loss(**{**arguments, **changes})
