"""The Triton kernels of add_layer_norm against float64, with and without each argument that may be absent."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import add_layer_norm, use
from vitkiln.kernels.add_layer_norm import kernel, reference

EPS = 1e-6
SHAPES = [(3, 7, 37), (1, 1, 1), (2, 5, 384), (1, 2, 3, 64), (66, 5)]
KINDS = [(), ("branch",), ("branch", "scale"), ("branch", "drop_path"), ("branch", "scale", "drop_path")]
EVERYTHING = KINDS[-1]


def sample(shape: tuple[int, ...], kind: tuple[str, ...], dtype: torch.dtype, branch_dtype=None) -> list:
    """x and branch in the types of the stream and the branch, vectors in fp32."""
    x = torch.randn(shape, dtype=dtype)
    branch = torch.randn(shape, dtype=branch_dtype or dtype, requires_grad=True) if "branch" in kind else None
    weight, bias, scale = (torch.randn(shape[-1], requires_grad=True) for _ in range(3))
    drop_path = torch.randint(0, 2, shape[:1]) / 0.7 if "drop_path" in kind else None
    return [x.requires_grad_(), branch, weight, bias, EPS, scale if "scale" in kind else None, drop_path]


def both(function):
    """A function whose two results reach the fixture `gradients` as one."""
    return lambda *arguments: torch.cat([out.double() for out in function(*arguments)], -1)


def widened(arguments: list) -> list:
    return [a.detach().double().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "kind"), [*((shape, EVERYTHING) for shape in SHAPES), *(((2, 3, 8), kind) for kind in KINDS)]
)
def test_agrees_with_float64(shape, kind, dtype, gradients, close):
    arguments = sample(shape, kind, dtype)
    with use("triton", "add_layer_norm"):
        ours = gradients(both(add_layer_norm), *arguments)
    wanted = gradients(both(reference.add_layer_norm), *widened(arguments))
    for actual, expected in zip(ours, wanted, strict=True):
        close(actual, expected, dtype)


def test_branches_of_another_type_than_the_stream(gradients, close):
    arguments = sample((2, 5, 32), EVERYTHING, torch.float32, torch.bfloat16)
    for absent in ([], [5, 6]):
        for index in absent:
            arguments[index] = None
        with use("triton", "add_layer_norm"), torch.autocast("cpu", torch.bfloat16):
            total, out = add_layer_norm(*arguments)
            assert (total.dtype, out.dtype) == (torch.float32, torch.bfloat16)
            ours = gradients(both(add_layer_norm), *arguments)
        assert [grad.dtype for grad in ours[1:3]] == [torch.float32, torch.bfloat16]
        wanted = gradients(both(reference.add_layer_norm), *widened(arguments))
        for actual, expected in zip(ours, wanted, strict=True):
            close(actual, expected, torch.bfloat16)


@pytest.mark.parametrize("rows_per_part", [1, 7])
def test_the_number_of_parts_does_not_change_the_sums(rows_per_part, gradients, close, monkeypatch):
    arguments = sample((2, 11, 16), EVERYTHING, torch.float32)
    monkeypatch.setattr(kernel, "ROWS_PER_PART", rows_per_part)
    with use("triton", "add_layer_norm"):
        ours = gradients(both(add_layer_norm), *arguments)
    wanted = gradients(both(reference.add_layer_norm), *widened(arguments))
    for actual, expected in zip(ours, wanted, strict=True):
        close(actual, expected, torch.float32)


def test_two_runs_agree_to_the_bit(gradients):
    arguments = sample((3, 9, 37), EVERYTHING, torch.bfloat16)
    with use("triton", "add_layer_norm"):
        pairs = zip(*(gradients(both(add_layer_norm), *arguments) for _ in range(2)), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_a_large_mean_does_not_cancel(close):
    x, _, weight, bias, *_ = sample((2, 5, 64), (), torch.float32)
    with use("triton", "add_layer_norm"):
        out = add_layer_norm(x + 1000, None, weight, bias, EPS)[1]
    wide = [t.double() for t in (x + 1000, weight, bias)]
    close(out, reference.add_layer_norm(wide[0], None, *wide[1:], EPS)[1], torch.float16)


def test_a_row_without_variance_gives_the_bias():
    x, _, weight, bias, *_ = sample((2, 5, 7), (), torch.float32)
    with use("triton", "add_layer_norm"):
        out = add_layer_norm(torch.full_like(x, 7.0), None, weight, bias, EPS)[1]
    assert torch.equal(out, bias.expand(x.shape))


@pytest.mark.parametrize("read", [0, 1])
def test_a_result_that_nobody_reads_has_no_gradient_to_give(read, close):
    arguments = sample((2, 5, 8), EVERYTHING, torch.float32)
    wanted = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    with use("triton", "add_layer_norm"):
        ours = torch.autograd.grad(add_layer_norm(*arguments)[read].square().sum(), wanted, materialize_grads=True)
    theirs = reference.add_layer_norm(*arguments)[read].square().sum()
    for actual, expected in zip(ours, torch.autograd.grad(theirs, wanted, materialize_grads=True), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_an_empty_batch_gives_empty_results_and_zero_gradients(shape, gradients):
    with use("triton", "add_layer_norm"):
        out, *grads = gradients(both(add_layer_norm), *sample(shape, EVERYTHING, torch.float32))
    assert out.shape == (*shape[:2], 16)
    assert not any(grad.any() for grad in grads)


def test_strides_and_expanded_gradients_do_not_matter():
    arguments = sample((2, 5, 8), EVERYTHING, torch.float32)
    turned = [a.detach().mT.contiguous().mT.requires_grad_() for a in arguments[:2]]
    grads = []
    for first in (arguments[:2], turned):
        with use("triton", "add_layer_norm"):
            sum(out.sum() for out in add_layer_norm(*first, *arguments[2:])).backward()
        grads.append(first[1].grad)
    assert torch.equal(*grads)


def test_registration():
    arguments = sample((2, 5, 8), EVERYTHING, torch.float32)
    torch.library.opcheck(torch.ops.vitkiln.add_layer_norm.default, (*arguments, torch.float32))


def test_compiles_without_a_break(gradients, close):
    arguments = sample((2, 5, 8), EVERYTHING, torch.float32)
    compiled = torch.compile(add_layer_norm, backend="aot_eager", fullgraph=True)
    with use("triton"):
        ours = gradients(both(compiled), *arguments)
    for actual, expected in zip(ours, gradients(both(reference.add_layer_norm), *arguments), strict=True):
        close(actual, expected, torch.float32)
