"""linear_gelu: a linear layer and the exact GELU, with no more saved than a backward pass needs."""

import logging
import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import linear_gelu, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.linear_gelu import op, reference

SHAPES = [((2, 5, 8), 6), ((7, 3), 5), ((1, 1), 1), ((4,), 3), ((1, 197, 37), 64)]


def sample(shape=(2, 5, 8), features=6, dtype=torch.float64) -> tuple[Tensor, ...]:
    shapes = shape, (features, shape[-1]), (features,)
    return tuple(torch.randn(each, dtype=dtype, requires_grad=True) for each in shapes)


def loop(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty(*x.shape[:-1], len(weight), dtype=x.dtype)
    for row, result in zip(x.reshape(-1, x.shape[-1]), out.view(-1, len(weight)), strict=True):
        for f in range(len(weight)):
            u = (row @ weight[f] + bias[f]).item()
            result[f] = u * (1 + math.erf(u / math.sqrt(2))) / 2
    return out


def test_means_what_a_loop_says(close):
    arguments = [t.detach() for t in sample()]
    close(linear_gelu(*arguments), loop(*arguments))


@pytest.mark.parametrize("case", SHAPES)
def test_equals_its_reference_forward_and_backward(case, gradients, close):
    arguments = sample(*case)
    ours = gradients(linear_gelu, *arguments)
    for actual, expected in zip(ours, gradients(reference.linear_gelu, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_agree_with_float64(dtype, gradients, close):
    arguments = sample((2, 50, 64), 32, dtype)
    wide = [t.detach().double().requires_grad_() for t in arguments]
    ours = gradients(linear_gelu, *arguments)
    for actual, expected in zip(ours, gradients(reference.linear_gelu, *wide), strict=True):
        close(actual, expected, dtype)


def test_gradients_are_the_derivatives():
    assert torch.autograd.gradcheck(linear_gelu, sample())


def test_the_tails_and_the_origin():
    x = torch.tensor([[-9.0], [-6.5], [0.0], [6.5], [9.0]], dtype=torch.float64, requires_grad=True)
    out = linear_gelu(x, torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    out.sum().backward()
    assert torch.allclose(out[:, 0], torch.tensor([0, 0, 0, 6.5, 9.0], dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.allclose(x.grad[:, 0], torch.tensor([0, 0, 0.5, 1, 1], dtype=torch.float64), atol=1e-7, rtol=0)


def test_weights_of_another_type_are_cast_and_their_gradients_back(gradients, close):
    x, weight, bias = sample(dtype=torch.float32)
    out, *grads = gradients(linear_gelu, x.detach().bfloat16().requires_grad_(), weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear_gelu(x, weight, bias).dtype == torch.bfloat16
    assert [t.dtype for t in (out, *grads)] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for actual, expected in zip((out, *grads), gradients(reference.linear_gelu, x, weight, bias), strict=True):
        close(actual, expected, torch.bfloat16)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (0, 8)])
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(shape, gradients):
    out, *grads = gradients(linear_gelu, *sample(shape))
    assert out.shape == (*shape[:-1], 6)
    assert not any(grad.any() for grad in grads)


def test_strides_and_expanded_gradients_do_not_matter(close):
    arguments = sample()
    turned = [t.detach().mT.contiguous().mT.requires_grad_() if t.dim() > 1 else t for t in arguments]
    ours = torch.autograd.grad(linear_gelu(*turned).sum(), turned)
    theirs = torch.autograd.grad(reference.linear_gelu(*arguments).sum(), arguments)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected)


def test_compiles_without_a_break(gradients, close):
    arguments = sample()
    compiled = torch.compile(linear_gelu, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, *arguments), gradients(linear_gelu, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(())}, r"x: float32 \[\] on cpu; must be a floating point tensor \[.., D\]"),
        ({0: torch.zeros(5, 8, dtype=torch.int64)}, "x: int64"),
        ({1: torch.zeros(6, 7)}, r"weight: .*\[6, 7\].*must be a floating point tensor \[F, 8\], as wide as x"),
        ({1: torch.zeros(6)}, r"weight: .*\[6\]"),
        ({2: torch.zeros(5)}, r"bias: .*\[5\].*must be a floating point tensor \[6\], as weight has rows"),
        ({2: torch.zeros(6, device="meta")}, "bias: .*on meta; must be on cpu, as x is"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = list(sample(dtype=torch.float32))
    for index, value in changes.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        linear_gelu(*arguments)


@pytest.mark.parametrize(
    ("dtype", "unavailable", "asked", "obstacle"),
    [
        (torch.bfloat16, None, False, None),
        (torch.float16, None, True, None),
        (torch.bfloat16, "Triton is not installed", True, "Triton is not installed"),
        (torch.float32, None, False, "in fp32 PyTorch's product is taken unless ours is asked for"),
        (torch.float32, None, True, None),
        (torch.float64, None, True, "the kernel adds in fp32, and x is float64"),
    ],
)
def test_the_rule_of_choice(dtype, unavailable, asked, obstacle):
    assert op.obstacle(dtype, unavailable, asked) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "linear_gelu"):
        linear_gelu(*sample())
    said = [r.getMessage() for r in caplog.records]
    assert said == ["linear_gelu: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]
