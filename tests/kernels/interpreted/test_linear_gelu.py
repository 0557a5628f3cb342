"""The Triton kernels of linear_gelu against float64, at sizes that fill no tile."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import linear_gelu, use
from vitkiln.kernels.linear_gelu import kernel, reference

SHAPES = [(1, 1, 1), (37, 5, 70), (130, 64, 129), (300, 65, 8), (197, 128, 256)]  # R, D, F


def sample(rows: int, depth: int, features: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, weight, bias (in fp32) and an upstream gradient."""
    x, weight = torch.randn(rows, depth, dtype=dtype), torch.randn(features, depth, dtype=dtype)
    return x, weight, torch.randn(features), torch.randn(rows, features, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype, close):
    x, weight, bias, grad = sample(*shape, dtype)
    out, linear = kernel.forward(x, weight, bias, True)
    wanted = x.double() @ weight.double().T + bias
    close(linear, wanted, dtype)
    kept = linear.double().requires_grad_()
    expected = torch.nn.functional.gelu(kept)
    close(out, expected, dtype)
    expected.backward(grad.double())
    for actual, derivative in zip(kernel.backward(grad, linear), (kept.grad, kept.grad.sum(0)), strict=True):
        close(actual, derivative, dtype)


def test_nothing_is_kept_where_nothing_is_learned():
    x, weight, bias, _ = sample(37, 5, 70, torch.float32)
    out, linear = kernel.forward(x, weight, bias, False)
    assert linear.numel() == 0
    assert torch.equal(out, kernel.forward(x, weight, bias, True)[0])


def test_every_tile_of_rows_is_taken_once(close, monkeypatch):
    sizes = {"ROWS": 16, "FEATURES": 16, "DEPTH": 16, "BAND": 3}
    tile = {**sizes, "PRECISION": "ieee", "num_warps": 4, "num_stages": 2}
    monkeypatch.setattr(kernel, "forward_tile", lambda dtype: tile)
    x, weight, bias, _ = sample(16 * 7 + 1, 20, 16 * 2 + 1, torch.float32)
    close(kernel.forward(x, weight, bias, True)[1], x.double() @ weight.double().T + bias)


@pytest.mark.parametrize("rows_per_part", [1, 7])
def test_the_number_of_parts_does_not_change_the_sum(rows_per_part, close, monkeypatch):
    _, _, _, grad = sample(50, 1, 16, torch.float32)
    whole = kernel.backward(grad, grad)
    monkeypatch.setattr(kernel, "ROWS_PER_PART", rows_per_part)
    for actual, expected in zip(kernel.backward(grad, grad), whole, strict=True):
        close(actual, expected)


def test_the_tails_and_the_origin():
    linear = torch.tensor([[-9.0], [-6.5], [0.0], [6.5], [9.0]])
    out, _ = kernel.forward(linear, torch.ones(1, 1), torch.zeros(1), False)
    slope, _ = kernel.backward(torch.ones(5, 1), linear)
    assert torch.allclose(out[:, 0], torch.tensor([0, 0, 0, 6.5, 9.0]), atol=1e-6, rtol=0)
    assert torch.allclose(slope[:, 0], torch.tensor([0, 0, 0.5, 1, 1]), atol=1e-6, rtol=0)


def test_two_runs_agree_to_the_bit(gradients):
    arguments = [t.requires_grad_() for t in sample(150, 16, 33, torch.bfloat16)[:3]]
    with use("triton", "linear_gelu"):
        pairs = zip(*(gradients(linear_gelu, *arguments) for _ in range(2)), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_operator_uses_the_kernels_both_ways_where_they_are_asked_for(dtype, monkeypatch, gradients, close):
    launched = []
    for name in ("forward", "backward"):
        original = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, n=name, f=original: launched.append(n) or f(*a))
    arguments = [t.requires_grad_() for t in sample(37, 5, 9, dtype)[:3]]
    with use("triton", "linear_gelu"):
        ours = gradients(linear_gelu, *arguments)
    assert launched == ["forward", "backward"]
    for actual, expected in zip(ours, gradients(reference.linear_gelu, *arguments), strict=True):
        close(actual, expected, dtype)


def test_in_fp32_they_wait_to_be_asked_for(monkeypatch):
    monkeypatch.setattr(kernel, "forward", lambda *_: pytest.fail("was launched"))
    linear_gelu(*sample(3, 5, 9, torch.float32)[:3])


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(shape, gradients):
    arguments = [torch.randn(each, dtype=torch.float16, requires_grad=True) for each in (shape, (6, 8), (6,))]
    with use("triton", "linear_gelu"):
        out, *grads = gradients(linear_gelu, *arguments)
    assert out.shape == (*shape[:2], 6)
    assert not any(grad.any() for grad in grads)


def test_registration():
    x, weight, bias, _ = (t.requires_grad_() for t in sample(37, 5, 9, torch.float32))
    torch.library.opcheck(torch.ops.vitkiln.linear_gelu.default, (x, weight, bias, True))


def test_compiles_without_a_break(gradients, close):
    arguments = [t.requires_grad_() for t in sample(37, 5, 9, torch.float16)[:3]]
    compiled = torch.compile(linear_gelu, backend="aot_eager", fullgraph=True)
    with use("triton"):
        ours = gradients(compiled, *arguments)
    for actual, expected in zip(ours, gradients(reference.linear_gelu, *arguments), strict=True):
        close(actual, expected, torch.float16)
