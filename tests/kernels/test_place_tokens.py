"""place_tokens: each kept token lies beside the position it is told, and gradients flow back the same way."""

import logging

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import place_tokens, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.place_tokens import op, reference

SHAPES = [(2, 9, 4, 5), (1, 197, 197, 5), (3, 64, 1, 8), (2, 1, 1, 1)]  # B, P, K, D


def sample(batch=2, patches=9, kept=4, width=5, dtype=torch.float64) -> tuple[Tensor, ...]:
    tokens = torch.randn(batch, patches, width, dtype=dtype, requires_grad=True)
    position = torch.randn(patches, width, dtype=dtype, requires_grad=True)
    keep = torch.rand(batch, patches).argsort(1)[:, :kept].contiguous()
    return tokens, position, keep, torch.randint(0, patches, (batch, kept))


def loop(tokens: Tensor, position: Tensor, keep: Tensor, place: Tensor) -> Tensor:
    out = torch.empty(*keep.shape, tokens.shape[2], dtype=tokens.dtype)
    for b in range(keep.shape[0]):
        for k in range(keep.shape[1]):
            out[b, k] = tokens[b, keep[b, k]] + position[place[b, k]]
    return out


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_means_what_a_loop_says(implementation):
    arguments = sample()
    with use(implementation):
        assert torch.equal(place_tokens(*arguments), loop(*arguments))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_operator_equals_reference_forward_and_backward(shape, dtype, gradients, close):
    arguments = sample(*shape, dtype=dtype)
    ours = gradients(place_tokens, *arguments)
    for actual, expected in zip(ours, gradients(reference.place_tokens, *arguments), strict=True):
        close(actual, expected)


def test_gradients_are_the_derivatives():
    tokens, position, keep, place = sample()
    assert torch.autograd.gradcheck(lambda t, p: place_tokens(t, p, keep, place), (tokens, position))


def test_a_token_kept_twice_receives_both_gradients():
    tokens, position, keep, place = sample()
    keep = torch.zeros_like(keep)
    place_tokens(tokens, position, keep, place).sum().backward()
    assert torch.equal(tokens.grad[:, 0], torch.full_like(tokens[:, 0], keep.shape[1]))
    assert not tokens.grad[:, 1:].any()


def test_dropped_tokens_and_untold_places_receive_no_gradient():
    tokens, position, _, _ = sample()
    plan = torch.tensor([[3, 5], [5, 3]])
    place_tokens(tokens, position, plan, plan).square().sum().backward()
    others = [0, 1, 2, 4, 6, 7, 8]
    assert not position.grad[others].any()
    assert not tokens.grad[:, others].any()
    assert position.grad[[3, 5]].all()


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients():
    tokens, position, keep, place = sample(batch=0)
    out = place_tokens(tokens, position, keep, place)
    out.sum().backward()
    assert out.shape == (0, 4, 5)
    assert not position.grad.any()


def test_strides_do_not_matter(gradients, close):
    tokens, position, keep, place = sample()
    turned = tokens.detach().transpose(0, 2).contiguous().transpose(0, 2)
    wide = torch.stack([position.detach()] * 2, 2)[..., 0]
    spread = keep[:1].expand(2, -1)
    ours = place_tokens(turned, wide, spread, place.T.contiguous().T)
    assert torch.equal(ours, loop(tokens, position, spread, place))


def test_an_expanded_upstream_gradient_is_read_right():
    tokens, position, keep, place = sample()
    place_tokens(tokens, position, keep, place).sum().backward()
    expected = torch.bincount(place.flatten(), minlength=9).double()
    assert torch.equal(position.grad, expected[:, None].expand(9, 5))


def test_the_sum_is_rounded_once():
    tokens, position = torch.full((1, 1, 1), 256.0, dtype=torch.bfloat16), torch.full((1, 1), 0.75)
    index = torch.zeros(1, 1, dtype=torch.int64)
    assert place_tokens(tokens, position + 0.5, index, index).item() == 258  # 257.25 is nearer to 258 than to 256


def test_autocast_changes_nothing():
    arguments = sample(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(place_tokens(*arguments), loop(*arguments))


def test_a_fixed_position_table_costs_no_backward_pass(called):
    tokens, position, keep, place = sample()
    out = place_tokens(tokens, position.detach(), keep, place)
    with called() as names:
        out.sum().backward()
    assert "place_tokens_to_tokens" in names
    assert "place_tokens_to_position" not in names


def test_registration():
    torch.library.opcheck(torch.ops.vitkiln.place_tokens.default, (*sample(), "torch"))


def test_compiles_without_a_break(gradients, close):
    arguments = sample()
    compiled = torch.compile(place_tokens, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, *arguments), gradients(place_tokens, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {0: torch.zeros(2, 9)},
            r"tokens: float32 \[2, 9\] on cpu; must be a floating point tensor \[B, P, D\]",
        ),
        ({0: torch.zeros(2, 9, 5, dtype=torch.int64)}, "tokens: int64"),
        ({1: torch.zeros(9, 6)}, r"position: .*\[9, 6\].*as wide as tokens, \[P, 5\]"),
        ({2: torch.zeros(2, 4)}, r"keep: float32 .*must be int64 \[2, K\]"),
        ({2: torch.zeros(3, 4, dtype=torch.int64)}, r"keep: int64 \[3, 4\]"),
        ({3: torch.zeros(2, 3, dtype=torch.int64)}, r"place: int64 \[2, 3\].*keep's shape \[2, 4\]"),
        ({1: torch.zeros(9, 5, device="meta")}, "position: .*on meta; must be on cpu, as tokens is"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = list(sample())
    for index, value in changes.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        place_tokens(*arguments)


@pytest.mark.parametrize(
    ("dtypes", "unavailable", "obstacle"),
    [
        ((torch.bfloat16, torch.float32), None, None),
        ((torch.float32, torch.float32), "Triton is not installed", "Triton is not installed"),
        ((torch.float64, torch.float32), None, "the kernel adds in fp32, and an argument is float64"),
        ((torch.float32, torch.float64), None, "the kernel adds in fp32, and an argument is float64"),
    ],
)
def test_the_rule_of_choice(dtypes, unavailable, obstacle):
    assert op.obstacle(dtypes, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    arguments = sample()
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "place_tokens"):
        place_tokens(*arguments)
        place_tokens(*arguments)
    said = [r.getMessage() for r in caplog.records]
    assert said == ["place_tokens: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]
