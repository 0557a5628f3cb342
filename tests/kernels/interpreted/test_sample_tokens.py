"""The Triton kernel of sample_tokens draws what PyTorch draws, to the bit."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import sample_tokens, use
from vitkiln.kernels._shared.philox import ORDER, WRONG, bits, fraction
from vitkiln.kernels.sample_tokens import kernel, reference

SEED = torch.tensor([7 - 2**40, 2**31 + 3])  # both halves of the run's seed count, and all bits of the step
IDS = torch.tensor([3, 2**40 + 5, -1])


def same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for actual, expected in zip(ours, theirs, strict=True):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("patches", "kept", "probability"),
    [
        (1, 1, 0.0),
        (2, 1, 1.0),
        (9, 4, 0.5),
        (9, 7, 0.5),  # donors overlap the kept
        (16, 16, 1.0),  # donors are the order turned
        (49, 49, 0.3),
    ],
)
def test_draws_the_plans_of_the_reference(patches, kept, probability):
    arguments = (SEED, IDS, patches, kept, probability)
    same(kernel.draw(*arguments), reference.sample_tokens(*arguments))


@pytest.mark.parametrize(("patches", "kept"), [(196, 49), (256, 256), (257, 100)])
def test_draws_long_plans_too(patches, kept):
    arguments = (SEED, IDS[1:2], patches, kept, 0.5)
    same(kernel.draw(*arguments), reference.sample_tokens(*arguments))


def test_equal_bits_are_ordered_by_index():
    """About one in 500 images draws the same 24 bits for two of 256 patches."""
    ids = torch.arange(5000)
    drawn = bits(SEED, ids, (256, ORDER))[0].sort(1).values
    image = int((drawn.diff(dim=1) == 0).any(1).nonzero()[0])
    arguments = (SEED, ids[image : image + 1], 256, 256, 0.0)
    same(kernel.draw(*arguments), reference.sample_tokens(*arguments))


def test_a_number_that_equals_the_probability_is_not_wrong():
    drawn = fraction(bits(SEED, IDS[:1], (4, WRONG))[0])[0]
    arguments = (SEED, IDS[:1], 9, 4, drawn[2].item())
    same(kernel.draw(*arguments), reference.sample_tokens(*arguments))


def test_strides_do_not_matter():
    ids = torch.stack([IDS, IDS + 1], 1)[:, 0]
    seed = torch.stack([SEED, SEED], 1)[:, 0]
    same(kernel.draw(seed, ids, 9, 4, 0.5), kernel.draw(SEED, IDS, 9, 4, 0.5))


def test_an_empty_batch_gives_empty_plans():
    plan = kernel.draw(SEED, IDS[:0], 9, 4, 0.5)
    assert [tuple(part.shape) for part in plan] == [(0, 4)] * 3 + [(0, 9)]


def test_the_operator_uses_the_kernel(monkeypatch):
    launched, draw = [], kernel.draw
    monkeypatch.setattr(kernel, "draw", lambda *arguments: launched.append(1) or draw(*arguments))
    with use("triton", "sample_tokens"):
        same(sample_tokens(SEED, IDS, 9, 4, 0.5), reference.sample_tokens(SEED, IDS, 9, 4, 0.5))
        sample_tokens(SEED, IDS[:1], 1025, 4)
    assert launched == [1]


def test_registration():
    torch.library.opcheck(torch.ops.vitkiln.sample_tokens.default, (SEED, IDS, 9, 4, 0.5, "triton"))


def test_compiles_without_a_break():
    compiled = torch.compile(sample_tokens, backend="aot_eager", fullgraph=True)
    with use("triton"):
        same(compiled(SEED, IDS, 9, 4, 0.5), reference.sample_tokens(SEED, IDS, 9, 4, 0.5))
