"""The Triton kernels of the contrastive losses against float64, at sizes that fill no tile."""

import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import info_nce, n_pair, nt_xent, sup_con, use
from vitkiln.kernels.contrastive import chunks, launch, reference

FORMS = [  # N, M, D, positive, without, normalize
    (5, 9, 7, 2, -1, True),
    (37, 130, 70, 90, 3, True),
    (65, 65, 32, 0, -1, False),
    (40, 100, 16, -1, 0, True),
    (1, 1, 256, 0, -1, True),
]


def sample(rows: int, keys: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, width).to(dtype), torch.randn(keys, width).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "keys", "width", "positive", "without", "normalize"), FORMS)
def test_agrees_with_float64(rows, keys, width, positive, without, normalize, dtype, close):
    query, key = sample(rows, keys, width, dtype)
    settings, grad = (0.2, positive, without, normalize), torch.randn(rows)
    loss, lse, to_query = launch.forward(query, key, *settings, True)
    theirs = chunks.forward(query.double(), key.double(), *settings, True)
    found = loss, lse * math.log(2), to_query, *launch.backward(grad, query, key, loss, lse, *settings, True)
    expected = *theirs, *chunks.backward(grad.double(), query.double(), key.double(), *theirs[:2], settings, True)
    for actual, wanted in zip(found, expected, strict=True):
        if wanted.isfinite().all():
            close(actual, wanted)
        else:  # a lone key is the positive: no other is left
            assert torch.equal(actual.double(), wanted)


@pytest.mark.parametrize("programs", [1, 4, 1000])
def test_the_number_of_segments_does_not_change_the_result(programs, close, monkeypatch):
    query, key = sample(20, 300, 16, torch.float32)
    tile = launch.forward_tile(torch.float32, 16, True)
    monkeypatch.setattr(launch, "PROGRAMS", programs)
    segments = launch.cut(20, 300, tile["ROWS"], tile["KEYS"])[0]
    assert (segments > 1) == (programs > 1)
    loss, lse, to_query = launch.forward(query, key, 0.1, 250, -1, True, True)
    grads = launch.backward(torch.ones(20), query, key, loss, lse, 0.1, 250, -1, True, True)
    monkeypatch.setattr(launch, "PROGRAMS", 1)
    again = launch.forward(query, key, 0.1, 250, -1, True, True)
    others = launch.backward(torch.ones(20), query, key, *again[:2], 0.1, 250, -1, True, True)
    for actual, expected in zip((loss, lse, to_query, *grads), (*again, *others), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(("rows", "others"), [(1, 1), (1024, 1024), (1024, 65_536), (100, 63), (70_000, 5)])
def test_segments_hold_every_key_once_and_none_is_empty(rows, others):
    segments, share = launch.cut(rows, others, 128, 64)
    assert share % 64 == 0
    assert (segments - 1) * share < others <= segments * share


@pytest.mark.parametrize(("temperature", "spread"), [(0.01, 1.0), (1.0, 1e4)])
def test_large_logits_and_duplicate_rows_are_right_and_finite(temperature, spread, gradients):
    query = (spread / 16) ** 0.5 * torch.randn(9, 16).repeat(2, 1)
    rows = [query.clone().requires_grad_(), query.flip(0).clone().requires_grad_()]
    settings = (temperature, 0, spread == 1.0)
    with use("triton", "contrastive"):
        ours = gradients(info_nce, *rows, *settings)
    theirs = gradients(reference.info_nce, *(x.detach().double().requires_grad_() for x in rows), *settings)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def losses(dtype: torch.dtype) -> list:
    """Each loss with arguments that need every gradient."""
    first, second = (x.requires_grad_() for x in sample(21, 21, 24, dtype))
    features = torch.randn(11, 2, 24).to(dtype).requires_grad_()
    return [
        (info_nce, reference.info_nce, (first, second, 0.2)),
        (info_nce, reference.info_nce, (first, second.detach(), 0.2)),
        (nt_xent, reference.nt_xent, (first, second, 0.2)),
        (sup_con, reference.sup_con, (features, torch.arange(11) % 4, 0.1, 0.07)),
        (n_pair, reference.n_pair, (first, second, 0.02)),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", range(5))
def test_every_loss_runs_the_kernels_both_ways(which, dtype, gradients, close, monkeypatch):
    launched = []
    for name in ("forward", "backward"):
        original = getattr(launch, name)
        monkeypatch.setattr(launch, name, lambda *a, n=name, f=original: launched.append(n) or f(*a))
    loss, meaning, arguments = losses(dtype)[which]
    with use("triton", "contrastive"):
        ours = gradients(loss, *arguments)
    assert set(launched) == ({"forward"} if which == 1 else {"forward", "backward"})
    for actual, expected in zip(ours, gradients(meaning, *arguments), strict=True):
        close(actual, expected)


def test_two_runs_agree_to_the_bit(gradients):
    query, key = (x.requires_grad_() for x in sample(40, 200, 33, torch.bfloat16))
    with use("triton", "contrastive"):
        pairs = zip(*(gradients(info_nce, query, key, 0.2, 90) for _ in range(2)), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_zero_rows_and_empty_batches_give_numbers(gradients):
    with use("triton", "contrastive"):
        zero = gradients(info_nce, torch.zeros(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True), 0.2)
        none = gradients(info_nce, torch.zeros(0, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True), 0.2)
    assert all(x.isfinite().all() for x in zero)
    assert [list(x.shape) for x in none] == [[0], [0, 3], [2, 3]]
    assert not none[2].any()


def test_strides_and_expanded_gradients_do_not_matter(close):
    query, key = sample(12, 30, 16, torch.float32)
    turned = [x.T.contiguous().T.requires_grad_() for x in (query, key)]
    plain = [x.double().requires_grad_() for x in (query, key)]
    with use("triton", "contrastive"):
        ours = torch.autograd.grad(info_nce(*turned, 0.2).sum(), turned)
    for actual, expected in zip(ours, torch.autograd.grad(reference.info_nce(*plain, 0.2).sum(), plain), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("ready", [True, False])
def test_registration(ready):
    query, key = sample(9, 20, 16, torch.float32)
    query, key = query.requires_grad_(), key.requires_grad_(not ready)
    torch.library.opcheck(torch.ops.vitkiln.info_nce.default, (query, key, 0.2, 3, 1, True, ready, True))


def test_compiles_without_a_break(gradients, close):
    query, key = (x.requires_grad_() for x in sample(9, 20, 16, torch.bfloat16))
    compiled = torch.compile(info_nce, backend="aot_eager", fullgraph=True)
    with use("triton"):
        ours = gradients(compiled, query, key, 0.2, 3)
    for actual, expected in zip(ours, gradients(reference.info_nce, query, key, 0.2, 3), strict=True):
        close(actual, expected)
