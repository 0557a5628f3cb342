"""add_layer_norm: the residual stream grows by its branch, and its norm is that of the sum."""

import logging
import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import add_layer_norm, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.add_layer_norm import op, reference

EPS = 1e-6
SHAPES = [(2, 5, 8), (3, 7), (1, 1, 1), (2, 197, 5), (2, 3, 4, 6), (1, 50, 384)]
FACTORS = [(), ("scale",), ("drop_path",), ("scale", "drop_path")]


def sample(shape=(2, 5, 8), factors=("scale", "drop_path"), branch=True, dtype=torch.float64) -> list:
    """Arguments in order; those that a call may lack are None where they are not named."""
    x = torch.randn(shape, dtype=dtype)
    vectors = [torch.randn(shape[-1], dtype=dtype) for _ in range(3)]
    drop_path = torch.randint(0, 2, shape[:1]).to(dtype) / 0.7 if "drop_path" in factors else None
    scale = vectors[2].requires_grad_() if "scale" in factors else None
    branch = torch.randn(shape, dtype=dtype, requires_grad=True) if branch else None
    return [x.requires_grad_(), branch, vectors[0].requires_grad_(), vectors[1].requires_grad_(), EPS, scale, drop_path]


def loop(x, branch, weight, bias, eps, scale, drop_path) -> tuple[Tensor, Tensor]:
    total, out = x.detach().clone(), torch.empty_like(x)
    for b in range(len(x)):
        factor = 1.0 if drop_path is None else drop_path[b].item()
        for row, added, normal in zip(
            total[b].reshape(-1, x.shape[-1]),
            branch[b].reshape(-1, x.shape[-1]),
            out[b].view(-1, x.shape[-1]),
            strict=True,
        ):
            row += factor * added if scale is None else factor * scale * added
            mean = sum(row.tolist()) / len(row)
            variance = sum((value - mean) ** 2 for value in row.tolist()) / len(row)
            for d in range(len(row)):
                normal[d] = (row[d] - mean) / math.sqrt(variance + eps) * weight[d] + bias[d]
    return total, out


def both(function):
    """A function whose two results reach the fixture `gradients` as one."""
    return lambda *arguments: torch.cat([out.double() for out in function(*arguments)], -1)


@pytest.mark.parametrize("factors", FACTORS)
def test_means_what_a_loop_says(factors, close):
    arguments = [a.detach() if isinstance(a, Tensor) else a for a in sample(factors=factors)]
    for actual, expected in zip(add_layer_norm(*arguments), loop(*arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factors", FACTORS)
def test_equals_its_reference_forward_and_backward(shape, factors, gradients, close):
    arguments = sample(shape, factors)
    ours = gradients(both(add_layer_norm), *arguments)
    for actual, expected in zip(ours, gradients(both(reference.add_layer_norm), *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_agree_with_float64(dtype, gradients, close):
    arguments = sample((2, 50, 64), dtype=dtype)
    wide = [a.detach().double().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments]
    ours = gradients(both(add_layer_norm), *arguments)
    for actual, expected in zip(ours, gradients(both(reference.add_layer_norm), *wide), strict=True):
        close(actual, expected, dtype)


@pytest.mark.parametrize("types", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_the_stream_keeps_its_type_beside_branches_of_another(types, gradients, close):
    x, branch, *others = sample(dtype=torch.float32, factors=())
    arguments = [x.detach().to(types[0]).requires_grad_(), branch.detach().to(types[1]).requires_grad_(), *others]
    total, out = add_layer_norm(*arguments)
    assert (total.dtype, out.dtype) == (types[0], types[0])
    ours = gradients(both(add_layer_norm), *arguments)
    for actual, expected in zip(ours, gradients(both(reference.add_layer_norm), *arguments), strict=True):
        assert actual.dtype == expected.dtype
        close(actual, expected, torch.bfloat16)


def test_autocast_decides_the_type_of_the_norm_alone():
    with torch.autocast("cpu", torch.bfloat16):
        total, out = add_layer_norm(*sample(dtype=torch.float32))
    assert (total.dtype, out.dtype) == (torch.float32, torch.bfloat16)


def test_without_a_branch_the_sum_is_x_itself(gradients, close):
    arguments = sample(factors=(), branch=False)
    assert add_layer_norm(*arguments)[0] is arguments[0]
    ours = gradients(both(add_layer_norm), *arguments)
    for actual, expected in zip(ours, gradients(both(reference.add_layer_norm), *arguments), strict=True):
        close(actual, expected)


def test_what_is_normalised_is_the_rounded_sum(close):
    x, branch, *others = sample((2, 50, 64), (), dtype=torch.bfloat16)
    total, out = add_layer_norm(x, branch, *others)
    close(
        out, reference.add_layer_norm(total.double(), None, *(t.double() for t in others[:2]), EPS)[1], torch.bfloat16
    )


@pytest.mark.parametrize("factors", FACTORS)
def test_gradients_are_the_derivatives(factors):
    arguments = sample((2, 3, 4), factors)
    assert torch.autograd.gradcheck(add_layer_norm, arguments)


@pytest.mark.parametrize("read", [0, 1])
def test_a_result_that_nobody_reads_has_no_gradient_to_give(read, close):
    arguments = sample()
    wanted = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    pair = [function(*arguments)[read].square().sum() for function in (add_layer_norm, reference.add_layer_norm)]
    ours = torch.autograd.grad(pair[0], wanted, materialize_grads=True)
    for actual, expected in zip(ours, torch.autograd.grad(pair[1], wanted, materialize_grads=True), strict=True):
        close(actual, expected)


def test_a_dropped_branch_neither_counts_nor_learns():
    x, branch, weight, bias, _, scale, _ = sample()
    total, out = add_layer_norm(x, branch, weight, bias, EPS, scale, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.equal(total[0], x[0])
    assert not torch.equal(total[1], x[1])
    (total.sum() + out.square().sum()).backward()
    assert not branch.grad[0].any()
    assert branch.grad[1].all()


def test_a_large_mean_does_not_cancel(close):
    x, _, weight, bias, *_ = sample((2, 50, 64), dtype=torch.float32)
    shifted = add_layer_norm(x + 1000, None, weight, bias, EPS)[1]
    close(
        shifted,
        reference.add_layer_norm((x + 1000).double(), None, weight.double(), bias.double(), EPS)[1],
        torch.float16,
    )


def test_a_row_without_variance_gives_the_bias():
    x, _, weight, bias, *_ = sample()
    assert torch.equal(add_layer_norm(torch.full_like(x, 7.0), None, weight, bias, EPS)[1], bias.expand(x.shape))


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8)])
def test_an_empty_batch_gives_empty_results_and_zero_gradients(shape, gradients):
    out, *grads = gradients(both(add_layer_norm), *sample(shape))
    assert out.shape == (*shape[:2], 16)
    assert not any(grad.any() for grad in grads)


def test_strides_and_expanded_gradients_do_not_matter(close):
    arguments = sample()
    turned = [a.detach().mT.contiguous().mT.requires_grad_() if a.dim() > 1 else a for a in arguments[:2]]
    grads = []
    for first in (arguments[:2], turned):
        sum(out.sum() for out in add_layer_norm(*first, *arguments[2:])).backward()
        grads.append(first[1].grad)
    close(grads[1], grads[0])


@pytest.mark.parametrize("branch", [True, False])
def test_compiles_without_a_break(branch, gradients, close):
    arguments = sample(factors=("scale",) if branch else (), branch=branch)
    compiled = torch.compile(add_layer_norm, backend="aot_eager", fullgraph=True)
    ours = gradients(both(compiled), *arguments)
    for actual, expected in zip(ours, gradients(both(add_layer_norm), *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: torch.zeros(8)}, r"x: float32 \[8\] on cpu; must be a floating point tensor \[B, .., D\]"),
        ({0: torch.zeros(2, 5, 8, dtype=torch.int64)}, "x: int64"),
        ({1: torch.zeros(2, 5, 9)}, r"branch: .*\[2, 5, 9\].*must be a floating point tensor \[2, 5, 8\]"),
        ({2: torch.zeros(9)}, r"weight: .*\[9\].*\[8\]"),
        ({3: torch.zeros(1)}, r"bias: .*\[1\].*\[8\]"),
        ({5: torch.zeros(())}, r"scale: .*\[\].*\[8\]"),
        ({6: torch.zeros(5)}, r"drop_path: .*\[5\].*\[2\]"),
        ({6: torch.ones(2, dtype=torch.bool)}, "drop_path: bool"),
        ({1: None}, "scale: .*must be None where branch is None"),
        ({2: torch.zeros(8, device="meta")}, "weight: .*on meta; must be on cpu, as x is"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = sample()
    for index, value in changes.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        add_layer_norm(*arguments)


@pytest.mark.parametrize(
    ("dtypes", "width", "unavailable", "obstacle"),
    [
        ((torch.bfloat16, torch.float32), 384, None, None),
        ((torch.float32,), 384, "Triton is not installed", "Triton is not installed"),
        ((torch.float32, torch.float64), 384, None, "the kernel adds in fp32, and an argument is float64"),
        ((torch.bfloat16,), 5000, None, "the kernel takes up to 4096 channels, not 5000"),
    ],
)
def test_the_rule_of_choice(dtypes, width, unavailable, obstacle):
    assert op.obstacle(dtypes, width, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "add_layer_norm"):
        add_layer_norm(*sample())
    said = [r.getMessage() for r in caplog.records]
    assert said == ["add_layer_norm: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]
