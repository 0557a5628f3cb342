"""n_pair: an anchor of each class against the positives of all."""

import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import info_nce, n_pair, use
from vitkiln.kernels.contrastive import chunks, reference


def pairs(classes=6, width=7, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(classes, width, dtype=dtype, requires_grad=True) for _ in range(2))


def loop(anchor: Tensor, positive: Tensor, l2: float) -> float:
    losses, anchor, positive = [], anchor.detach(), positive.detach()
    for i, a in enumerate(anchor):
        others = [math.exp(a @ p - a @ positive[i]) for j, p in enumerate(positive) if j != i]
        losses.append(math.log(1 + sum(others)) + l2 * (a.square().sum() + positive[i].square().sum()).item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("l2", [0.0, 0.02])
def test_means_what_a_loop_says(implementation, l2):
    anchor, positive = pairs()
    with use(implementation):
        assert n_pair(anchor, positive, l2).item() == pytest.approx(loop(anchor, positive, l2), rel=1e-12)


@pytest.mark.parametrize("at_once", [1, 60, 1 << 22])
@pytest.mark.parametrize("shape", [(6, 7), (1, 3), (101, 5)])
def test_operator_equals_reference_forward_and_backward(shape, at_once, gradients, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
    arguments = pairs(*shape)
    ours, theirs = (gradients(function, *arguments, 0.02) for function in (n_pair, reference.n_pair))
    for actual, expected in zip(ours, theirs, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_gradients_are_the_derivatives():
    assert torch.autograd.gradcheck(lambda a, p: n_pair(a, p, 0.02), pairs())


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_identical_embeddings_cost_the_logarithm_of_the_classes(classes):
    same = torch.ones(classes, 4)
    assert n_pair(same, same).item() == pytest.approx(math.log(classes), abs=1e-6)


def test_is_info_nce_of_plain_rows_at_temperature_1(close):
    anchor, positive = pairs()
    close(n_pair(anchor, positive), info_nce(anchor, positive, 1.0, normalize=False).mean())


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_of_ten_thousand_do_not_overflow(sign, gradients, close):
    anchor = (100 * torch.eye(5)).requires_grad_()
    positive = (sign * 100 * torch.eye(5)).requires_grad_()
    loss, *grads = gradients(n_pair, anchor, positive)
    assert loss.item() == pytest.approx(0.0 if sign > 0 else 1e4 + math.log(4), rel=1e-6)
    for actual, expected in zip(grads, gradients(n_pair, anchor.double(), positive.double())[1:], strict=True):
        assert torch.allclose(actual, expected.float(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_computed_in_fp32_whatever_arrives(dtype, gradients, close):
    narrow = pairs(16, 32, dtype)
    wide = [x.detach().double().requires_grad_() for x in narrow]
    ours = gradients(n_pair, *narrow, 0.02)
    assert [x.dtype for x in ours] == [torch.float32, dtype, dtype]
    for actual, expected in zip(ours, gradients(n_pair, *wide, 0.02), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_does_not_narrow_it(implementation):
    anchor, positive = pairs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        loss = n_pair(anchor, positive, 0.02)
    assert loss.item() == pytest.approx(loop(anchor, positive, 0.02), rel=1e-5)


def test_saves_no_array_of_classes_by_classes():
    anchor, positive, saved = *pairs(64, 2), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        n_pair(anchor, positive)
    assert max(tensor.numel() for tensor in saved) <= 64 * 2


def test_no_classes_cost_nothing():
    anchor, positive = pairs(0)
    loss = n_pair(anchor, positive, 0.02)
    loss.backward()
    assert loss.item() == 0
    assert anchor.grad.shape == (0, 7)


def test_compiles_without_a_break(gradients, close):
    arguments = (*pairs(), 0.02)
    compiled = torch.compile(n_pair, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, *arguments), gradients(n_pair, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchor": torch.zeros(6)}, r"anchor: float32 \[6\] on cpu; must be a floating point tensor \[C, D\]"),
        ({"positive": torch.zeros(5, 7)}, r"positive: float32 \[5, 7\].*of the shape of anchor, \[6, 7\]"),
        ({"positive": torch.zeros(6, 7, device="meta")}, "positive: .*must be on cpu, as anchor is"),
        ({"l2": -0.1}, "l2: -0.1; must be a number from 0"),
        ({"l2": float("nan")}, "l2: nan"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    anchor, positive = pairs()
    with pytest.raises(ValueError, match=message):
        n_pair(**{"anchor": anchor, "positive": positive, **changes})
