"""The Triton kernels of attention against float64, at every kind of tile, forward and backward."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import attention, use
from vitkiln.kernels.attention import kernel, reference

CASES = [  # sequences, tokens, heads, their width
    (2, 1, 2, 16),
    (1, 10, 1, 32),
    (2, 37, 2, 16),
    (2, 50, 2, 64),
    (1, 63, 1, 32),
    (1, 64, 1, 64),
    (2, 65, 1, 64),
    (1, 197, 2, 64),
    (1, 256, 1, 16),
]
GROUPS = [(2, 37), (0, 9), (1, 70), (3, 1)]


def sample(count: int, length: int, heads: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """qkv with its gradient on, and an upstream gradient."""
    qkv = torch.randn(count * length, 3 * heads * width, dtype=dtype, requires_grad=True)
    return qkv, torch.randn(count * length, heads * width, dtype=dtype)


def ours(qkv: Tensor, grad: Tensor, heads: int, groups: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    counts, lengths = map(list, zip(*groups, strict=True))
    out, lse = kernel.forward(qkv.detach(), heads, counts, lengths)
    return out, kernel.backward(grad, qkv.detach(), out, lse, heads, counts, lengths)


def expected(qkv: Tensor, grad: Tensor, heads: int, groups: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    wide = qkv.detach().double().requires_grad_()
    out = reference.attention(wide, heads, groups)
    return out.detach(), torch.autograd.grad(out, wide, grad.double())[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_float64(case, dtype, close):
    count, length, heads, width = case
    qkv, grad = sample(count, length, heads, width, dtype)
    arguments = qkv, grad, heads, [(count, length)]
    for actual, wanted in zip(ours(*arguments), expected(*arguments), strict=True):
        assert actual.dtype == dtype
        close(actual, wanted, dtype)


def test_groups_of_different_lengths_share_one_buffer(close):
    qkv, grad = sample(1, 2 * 37 + 70 + 3, 2, 16, torch.float32)
    for actual, wanted in zip(ours(qkv, grad, 2, GROUPS), expected(qkv, grad, 2, GROUPS), strict=True):
        close(actual, wanted)


@pytest.mark.parametrize("length", [50, 70])
def test_scores_far_from_zero_neither_overflow_nor_vanish(length, close):
    qkv, grad = sample(1, length, 1, 16, torch.float32)
    with torch.no_grad():
        qkv[:, :16] += 30.0
        qkv[:, 16:32] -= 30.0  # every score near -3600: 2 to the power of -lse would be infinite
    arguments = qkv, grad, 1, [(1, length)]
    actual, wanted = ours(*arguments), expected(*arguments)
    close(actual[0], wanted[0], torch.float16)  # fp32 resolves 2e-4 of such scores
    assert actual[1].isfinite().all()
    assert (actual[1] - wanted[1]).norm() < 5e-3 * wanted[1].norm()


def test_the_saved_logarithm_is_that_of_the_denominator(close):
    qkv, _ = sample(2, 37, 2, 16, torch.float32)
    _, lse = kernel.forward(qkv.detach(), 2, [2], [37])
    query, key, _ = reference.heads(qkv.detach().double().view(2, 37, -1), 3, 2)
    close(lse.view(2, 2, 37), (query @ key.mT / 4).logsumexp(-1) / torch.log(torch.tensor(2.0)))


@pytest.mark.parametrize("length", [50, 197])
def test_two_runs_agree_to_the_bit(length):
    arguments = *sample(1, length, 1, 16, torch.bfloat16), 1, [(1, length)]
    for first, second in zip(ours(*arguments), ours(*arguments), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_operator_uses_the_kernels_both_ways_where_they_are_asked_for(dtype, monkeypatch, gradients, close):
    launched = []
    for name in ("forward", "backward"):
        original = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, n=name, f=original: launched.append(n) or f(*a))
    qkv = torch.randn(2, 9, 3 * 32, dtype=dtype, requires_grad=True)
    with use("triton", "attention"):
        actual = gradients(attention, qkv, 2)
    assert launched == ["forward", "backward"]
    for mine, wanted in zip(actual, gradients(reference.attention, qkv, 2), strict=True):
        close(mine, wanted)


def test_in_fp32_they_wait_to_be_asked_for(monkeypatch):
    monkeypatch.setattr(kernel, "forward", lambda *_: pytest.fail("was launched"))
    attention(torch.randn(2, 9, 3 * 32), 2)


@pytest.mark.parametrize("shape", [(0, 5, 96), (2, 0, 96)])
def test_nothing_gives_nothing(shape, gradients):
    with use("triton", "attention"):
        out, grad = gradients(attention, torch.randn(shape, dtype=torch.float16, requires_grad=True), 2)
    assert (out.shape, grad.shape) == ((*shape[:2], 32), shape)


def test_strides_and_expanded_gradients_do_not_matter(close):
    qkv, _ = sample(2, 9, 2, 16, torch.float16)
    turned = qkv.detach().mT.contiguous().mT
    expanded = torch.ones((), dtype=torch.float16).expand(18, 32)
    for actual, wanted in zip(
        ours(turned, expanded, 2, [(2, 9)]), ours(qkv, expanded.contiguous(), 2, [(2, 9)]), strict=True
    ):
        assert torch.equal(actual, wanted)


def test_registration():
    qkv = torch.randn(18, 96, dtype=torch.float32, requires_grad=True)
    torch.library.opcheck(torch.ops.vitkiln.attention.default, (qkv, 2, [1, 1], [10, 8]))


def test_compiles_without_a_break(gradients, close):
    qkv = torch.randn(18, 96, dtype=torch.float16, requires_grad=True)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    with use("triton"):
        actual = gradients(compiled, qkv, 2, lengths=[(1, 10), (1, 8)])
    for mine, wanted in zip(actual, gradients(reference.attention, qkv, 2, lengths=[(1, 10), (1, 8)]), strict=True):
        close(mine, wanted)
