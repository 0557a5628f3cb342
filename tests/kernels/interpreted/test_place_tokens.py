"""The Triton kernels of place_tokens against float64, forward and both ways backward."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import place_tokens, use
from vitkiln.kernels._shared import one_hot
from vitkiln.kernels.place_tokens import kernel, reference

SHAPES = [  # B, P, K, D
    (2, 9, 4, 5),
    (1, 197, 197, 37),
    (3, 50, 1, 64),
    (1, 1, 1, 1),
    (1, 300, 65, 70),
]


def sample(batch: int, patches: int, kept: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """With indices that repeat, and a table of another length than the tokens."""
    tokens = torch.randn(batch, patches, width, dtype=dtype)
    position = torch.randn(patches + 2, width)
    keep, place = (torch.randint(0, n, (batch, kept)) for n in (patches, patches + 2))
    return tokens, position, keep, place


def expected(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.double().requires_grad_() for x in (tokens, position)]
    out = reference.place_tokens(*leaves, keep, place)
    return (out.detach(), *torch.autograd.grad(out, leaves, grad.double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_float64(shape, dtype, close):
    tokens, position, keep, place = arguments = sample(*shape, dtype)
    grad = torch.randn(*keep.shape, tokens.shape[2], dtype=dtype)
    ours = (
        kernel.forward(*arguments),
        kernel.to_tokens(grad, keep, tokens.shape[1]),
        kernel.to_position(grad, place, len(position)),
    )
    assert [x.dtype for x in ours] == [dtype, dtype, torch.float32]
    for actual, wanted in zip(ours, expected(*arguments, grad), strict=True):
        close(actual, wanted, dtype)


@pytest.mark.parametrize("tokens_per_part", [1, 7, 64])
def test_the_number_of_parts_does_not_change_the_sum(tokens_per_part, close, monkeypatch):
    _, position, _, place = sample(3, 20, 11, 17, torch.float32)
    grad = torch.randn(3, 11, 17)
    whole = kernel.to_position(grad, place, len(position))
    monkeypatch.setattr(one_hot, "TOKENS_PER_PART", tokens_per_part)
    close(kernel.to_position(grad, place, len(position)), whole)


def test_two_runs_agree_to_the_bit():
    _, _, keep, place = sample(2, 30, 70, 16, torch.bfloat16)
    grad = torch.randn(2, 70, 16, dtype=torch.bfloat16)
    assert torch.equal(kernel.to_tokens(grad, keep, 30), kernel.to_tokens(grad, keep, 30))
    assert torch.equal(kernel.to_position(grad, place, 32), kernel.to_position(grad, place, 32))


@pytest.mark.parametrize("shape", [(0, 9, 4, 5), (2, 9, 0, 5)])
def test_nothing_kept_gives_zero_gradients(shape):
    _, position, keep, place = arguments = sample(*shape, torch.float32)
    grad = torch.randn(*keep.shape, 5)
    assert kernel.forward(*arguments).shape == grad.shape
    assert not kernel.to_tokens(grad, keep, 9).any()
    assert torch.equal(kernel.to_position(grad, place, len(position)), torch.zeros_like(position))


def test_an_index_out_of_range_gives_nan_in_its_row_alone():
    tokens, position, keep, place = sample(1, 9, 4, 5, torch.float32)
    keep[0, 1], place[0, 2] = 9, -1
    out = kernel.forward(tokens, position, keep, place)
    assert out[0, [1, 2]].isnan().all()
    assert out[0, [0, 3]].isfinite().all()


def test_the_operator_uses_the_kernels_both_ways(monkeypatch, gradients):
    launched = []
    for name in ("forward", "to_tokens", "to_position"):
        original = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, n=name, f=original: launched.append(n) or f(*a))
    tokens, position, keep, place = sample(2, 9, 4, 5, torch.float32)
    with use("triton", "place_tokens"):
        gradients(place_tokens, tokens.requires_grad_(), position.requires_grad_(), keep, place)
    assert launched == ["forward", "to_tokens", "to_position"]


def test_strides_do_not_matter(close):
    tokens, position, keep, place = sample(2, 9, 4, 5, torch.float32)
    turned = [x.mT.contiguous().mT for x in (tokens, position, keep, place)]
    assert torch.equal(kernel.forward(*turned), kernel.forward(tokens, position, keep, place))
    expanded = torch.ones(()).expand(2, 4, 5)
    close(kernel.to_position(expanded, place, 11), kernel.to_position(torch.ones(2, 4, 5), place, 11))


def test_registration():
    tokens, position, keep, place = sample(2, 9, 4, 5, torch.float32)
    arguments = (tokens.requires_grad_(), position.requires_grad_(), keep, place, "triton")
    torch.library.opcheck(torch.ops.vitkiln.place_tokens.default, arguments)


def test_compiles_without_a_break(gradients, close):
    tokens, position, keep, place = sample(2, 9, 4, 5, torch.float32)
    arguments = (tokens.requires_grad_(), position.requires_grad_(), keep, place)
    compiled = torch.compile(place_tokens, backend="aot_eager", fullgraph=True)
    with use("triton"):
        ours = gradients(compiled, *arguments)
    for actual, wanted in zip(ours, gradients(reference.place_tokens, *arguments), strict=True):
        close(actual, wanted)
