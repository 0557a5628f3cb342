"""The Triton kernels of relation_loss against float64, at sizes that fill no tile."""

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import relation_loss, use
from vitkiln.kernels.relation_loss import kernel, reference

CASES = [  # images, patches, width of a head, shuffled, smoothing
    (2, 9, 21, True, 0.1),
    (1, 1, 1, False, 0.3),
    (1, 37, 42, False, 0.0),
]


def sample(batch: int, length: int, width: int, shuffled: bool, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """query and key, views of one projection, and where patches come from on a grid four wide."""
    packed = torch.randn(batch, length, 2, 9, width, dtype=dtype).permute(2, 0, 3, 1, 4)
    patch = torch.arange(length)
    if shuffled:
        patch = torch.stack([torch.randperm(length) for _ in range(batch)])
    return packed[0].requires_grad_(), packed[1].requires_grad_(), patch // 4, patch % 4


def in_float64(gradients, query, key, *others) -> tuple[Tensor, ...]:
    wide = [t.detach().double().requires_grad_() for t in (query, key)]
    return gradients(reference.relation_loss, *wide, *others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_float64(case, dtype, gradients, close):
    *shape, smoothing = case
    arguments = sample(*shape, dtype)
    with use("triton"):
        ours = gradients(relation_loss, *arguments, smoothing)
        accuracy = relation_loss(*arguments, smoothing)[1]
    theirs = in_float64(gradients, *arguments, smoothing)
    close(ours[0], theirs[0])
    for actual, expected in zip(ours[1:], theirs[1:], strict=True):
        difference = torch.linalg.vector_norm(actual.double() - expected)
        assert difference <= {2: 1e-2, 4: 5e-6}[dtype.itemsize] * torch.linalg.vector_norm(expected) + 1e-6
    wide = [t.detach().double() for t in arguments[:2]]
    assert accuracy.item() == pytest.approx(reference.relation_loss(*wide, *arguments[2:])[1].item(), abs=1e-6)


def test_tiles_and_parts_of_any_size_add_up(gradients, close, monkeypatch):
    small = {"DEPTH": 16, "PRECISION": "ieee", "num_warps": 4, "num_stages": 1}
    monkeypatch.setattr(kernel, "forward_tile", lambda *_: {"QUERIES": 16, "KEYS": 16, **small})
    monkeypatch.setattr(kernel, "backward_tile", lambda *_: {"OURS": 16, "OTHERS": 16, **small})
    arguments = sample(1, 17, 5, True, torch.float32)
    with use("triton"):
        ours, again = (gradients(relation_loss, *arguments) for _ in range(2))
    for actual, expected in zip(ours, in_float64(gradients, *arguments), strict=True):
        close(actual, expected)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


def test_large_logits_stay_right(gradients, close):
    _, _, rows, cols = sample(1, 9, 4, False, torch.float32)
    query, key = (torch.randint(-1, 2, (1, 9, 9, 4)).float() for _ in range(2))
    arguments = query.mul(1e4).requires_grad_(), key.requires_grad_(), rows, cols
    with use("triton"):
        ours = gradients(relation_loss, *arguments)
    for actual, expected in zip(ours, in_float64(gradients, *arguments), strict=True):
        assert actual.isfinite().all()
        close(actual / 100, expected / 100, torch.float16)  # the log-sum-exp of 1e4 is rounded to 1e-3


def test_of_equal_largest_logits_the_lowest_class_counts():
    query, _, rows, cols = (t.detach() for t in sample(1, 16, 1, False, torch.float32))
    query = torch.zeros_like(query)
    query[:, [3, 5]] = 1.0  # on the left and on the right of one another, in 24 of 256 pairs each
    with use("triton"):
        assert relation_loss(query, torch.ones_like(query), rows, cols)[1].item() == pytest.approx(24 / 256)
        zero = relation_loss(0 * query, query, rows, cols)
    assert [x.item() for x in zero] == [pytest.approx(2.1972, abs=5e-5), pytest.approx(36 / 256)]


@pytest.mark.parametrize("index", [0, 1])
def test_what_is_fixed_is_not_computed(index, monkeypatch, close):
    launched = []
    original = kernel.one_side
    monkeypatch.setattr(kernel, "one_side", lambda *given: launched.append(given[-1]) or original(*given))
    query, key, rows, cols = sample(1, 5, 3, False, torch.float32)
    leaves = [query, key]
    leaves[1 - index] = leaves[1 - index].detach()
    with use("triton"):
        ours = torch.autograd.grad(relation_loss(*leaves, rows, cols)[0], leaves[index])[0]
    assert launched == [(1, -1)[index]]
    close(ours, torch.autograd.grad(reference.relation_loss(*leaves, rows, cols)[0], leaves[index])[0])


@pytest.mark.parametrize(("batch", "length"), [(0, 9), (2, 0)])
def test_no_pairs_cost_nothing(batch, length, gradients):
    with use("triton"):
        loss, *grads = gradients(relation_loss, *sample(batch, length, 3, False, torch.float32))
    assert loss.item() == 0
    assert [grad.shape for grad in grads] == [(batch, 9, length, 3)] * 2


def test_registration():
    query, key, rows, cols = sample(1, 4, 3, False, torch.float32)
    operator = torch.ops.vitkiln.relation_loss.default
    torch.library.opcheck(operator, (query, key, rows[None], cols[None], 0.0, "triton"))


def test_compiles_without_a_break(gradients, close):
    arguments = sample(1, 9, 5, False, torch.float32)
    compiled = torch.compile(relation_loss, backend="aot_eager", fullgraph=True)
    with use("triton"):
        ours = gradients(compiled, *arguments)
    for actual, expected in zip(ours, gradients(reference.relation_loss, *arguments), strict=True):
        close(actual, expected)
