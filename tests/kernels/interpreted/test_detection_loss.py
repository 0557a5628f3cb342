"""The Triton kernels of detection_loss against float64, at sizes that fill no tile."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import detection_loss, use
from vitkiln.kernels.detection_loss import kernel, reference

SHAPES = [(3, 49, 37), (1, 1, 1), (1, 3, 384), (1, 65, 5), (2, 7, 1000)]  # B, K, D


def sample(batch=3, kept=49, width=37, dtype=torch.float32) -> tuple[Tensor, ...]:
    tokens = torch.randn(batch, kept, width).to(dtype).requires_grad_()
    weight, bias = torch.randn(width, requires_grad=True), torch.randn((), requires_grad=True)
    return tokens, weight, bias, torch.rand(batch, kept) < 0.4


def ours(*arguments: Tensor) -> tuple[Tensor, Tensor]:
    with use("triton", "detection_loss"):
        return detection_loss(*arguments)


def widened(arguments: tuple[Tensor, ...]) -> list[Tensor]:
    return [a.detach().double().requires_grad_() if a.is_floating_point() else a for a in arguments]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype, gradients, close):
    arguments = sample(*shape, dtype)
    wanted = gradients(reference.detection_loss, *widened(arguments))
    found = gradients(ours, *arguments)
    assert [x.dtype for x in found] == [torch.float32, dtype, torch.float32, torch.float32]
    close(found[0], wanted[0])
    for actual, expected in zip(found[1:], wanted[1:], strict=True):
        close(actual, expected * found[0] / wanted[0])  # the upstream gradient is cast to the type of the loss
    assert ours(*arguments)[1].item() == pytest.approx(reference.detection_loss(*arguments)[1].item())


def test_a_head_in_16_bits_and_a_bias_of_one_element(gradients, close):
    tokens, weight, bias, wrong = sample(dtype=torch.bfloat16)
    narrow = tokens, weight.detach().bfloat16().requires_grad_(), bias.detach()[None].bfloat16().requires_grad_(), wrong
    wanted = gradients(reference.detection_loss, *widened(narrow))
    found = gradients(ours, *narrow)
    assert [x.shape for x in found] == [x.shape for x in wanted]
    for actual, expected in zip(found, wanted, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("rows_per_part", [1, 7])
def test_the_number_of_parts_does_not_change_the_sums(rows_per_part, gradients, close, monkeypatch):
    arguments = sample(2, 25, 16)
    monkeypatch.setattr(kernel, "ROWS_PER_PART", rows_per_part)
    for actual, expected in zip(
        gradients(ours, *arguments), gradients(reference.detection_loss, *widened(arguments)), strict=True
    ):
        close(actual, expected)


def test_two_runs_agree_to_the_bit(gradients):
    arguments = sample(3, 49, 37, torch.bfloat16)
    pairs = zip(gradients(ours, *arguments), gradients(ours, *arguments), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("size", [1e4, 10.0])
def test_confident_tokens_are_judged_exactly(size, gradients):
    tokens = torch.tensor([[[size], [-size], [size], [-size]]], requires_grad=True)
    arguments = tokens, torch.ones(1, requires_grad=True), torch.zeros((), requires_grad=True)
    wrong = torch.tensor([[True, False, False, True]])
    found, wanted = (
        gradients(function, *given, wrong)
        for function, given in ((ours, arguments), (reference.detection_loss, widened(arguments)))
    )
    assert all(torch.allclose(a.double(), b, rtol=1e-5, atol=0) for a, b in zip(found[:2], wanted[:2], strict=True))
    right = ours(*(x[:, :2] if x.dim() > 1 else x for x in (*arguments, wrong)))
    exact = reference.detection_loss(*(x[:, :2] if x.dim() > 1 else x for x in (*widened(arguments), wrong)))
    assert right[0].item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert right[1].item() == 1


def test_tokens_that_learn_nothing_get_no_gradient(gradients, close):
    tokens, weight, bias, wrong = sample()
    found = gradients(ours, tokens.detach(), weight, bias, wrong)
    wanted = gradients(reference.detection_loss, *widened((tokens, weight, bias, wrong)))
    for actual, expected in zip(found[1:], wanted[2:], strict=True):
        close(actual, expected)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5)])
def test_no_tokens_cost_nothing(shape, gradients):
    loss, tokens, weight, bias = gradients(ours, *sample(*shape))
    assert (loss.item(), bias.item(), weight.abs().sum().item(), tokens.numel()) == (0, 0, 0, 0)


def test_strides_do_not_matter(gradients):
    tokens, weight, bias, wrong = sample()
    turned = tokens.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    spread = torch.stack([weight.detach()] * 2, 1)[:, 0].requires_grad_()
    pairs = zip(
        gradients(ours, turned, spread, bias, wrong.T.contiguous().T),
        gradients(ours, tokens, weight, bias, wrong),
        strict=True,
    )
    assert all(torch.equal(first, second) for first, second in pairs)


def test_registration():
    torch.library.opcheck(torch.ops.vitkiln.detection_loss.default, (*sample(2, 5, 8), "triton"))


def test_compiles_without_a_break(gradients, close):
    arguments = sample(2, 5, 8)
    compiled = torch.compile(detection_loss, backend="aot_eager", fullgraph=True)
    with use("triton"):
        found = gradients(compiled, *arguments)
    for actual, expected in zip(found, gradients(reference.detection_loss, *arguments), strict=True):
        close(actual, expected)
