"""info_nce, and the operator that all contrastive losses run: softmaxes over similarities, without keeping them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import info_nce, use
from vitkiln.kernels.contrastive import chunks, op, reference


def sample(rows=5, keys=9, width=7, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(n, width, dtype=dtype, requires_grad=True) for n in (rows, keys))


def loop(query: Tensor, key: Tensor, temperature: float, offset: int) -> Tensor:
    losses = []
    for i, q in enumerate(query.detach().double()):
        scores = [float(q @ k / q.norm() / k.norm()) / temperature for k in key.detach().double()]
        losses.append(math.log(sum(math.exp(s - scores[i + offset]) for s in scores)))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("offset", [0, 4])
def test_means_what_a_loop_says(implementation, offset, close):
    query, key = sample()
    with use(implementation):
        close(info_nce(query, key, 0.2, offset), loop(query, key, 0.2, offset))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("at_once", [1, 20, 1 << 22])
@pytest.mark.parametrize("shape", [(5, 9, 7), (1, 1, 1), (197, 200, 5)])
def test_operator_equals_reference_forward_and_backward(shape, at_once, normalize, gradients, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
    arguments = (*sample(*shape), 0.2, shape[1] - shape[0], normalize)
    theirs = gradients(reference.info_nce, *arguments)
    for actual, expected in zip(gradients(info_nce, *arguments), theirs, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)  # a lone pair's gradients are 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_computed_in_fp32_whatever_arrives(dtype, gradients, close):
    narrow = sample(16, 16, 32, dtype)
    wide = [a.detach().double().requires_grad_() for a in narrow]
    ours, theirs = (gradients(info_nce, *arguments, temperature=0.2) for arguments in (narrow, wide))
    assert ours[0].dtype == torch.float32
    close(ours[0], theirs[0])


def test_equals_cross_entropy(close):
    query, key = sample(9, 9)
    expected = F.cross_entropy(F.normalize(query) @ F.normalize(key).T / 0.2, torch.arange(9), reduction="none")
    close(info_nce(query, key, 0.2), expected)


def test_gradients_are_the_derivatives():
    assert torch.autograd.gradcheck(lambda q, k: info_nce(q, k, 0.2, offset=2), sample())


def test_one_pair_alone_costs_nothing():
    query, key = sample(1, 1, dtype=torch.float32)
    loss = info_nce(query, key, 0.07)
    loss.sum().backward()
    assert loss.item() == 0
    assert query.grad.abs().max() < 1e-6


@pytest.mark.parametrize(("rows", "factor", "published"), [(1024, 2 * 0.2, 2.7726), (256, 2 * 0.2, 2.2181)])
def test_equal_similarities_cost_the_logarithm_of_their_number(rows, factor, published):
    same = torch.ones(rows, 4)
    assert round(factor * info_nce(same, same, 0.2).mean().item(), 4) == published


def test_an_offset_reads_the_keys_of_another_rank(close):
    query, key = sample(8, 8)
    whole = info_nce(query, key, 0.2)
    close(torch.cat([info_nce(query[:4], key, 0.2), info_nce(query[4:], key, 0.2, offset=4)]), whole)


def test_large_similarities_do_not_overflow():
    query = torch.tensor([[300.0, 0.0]])
    key = torch.tensor([[300.0, 0.0], [-300.0, 0.0]])
    assert info_nce(query, key, 0.01, normalize=False).item() == 0
    far = info_nce(query, key, 0.01, offset=1, normalize=False).item()
    assert far == pytest.approx(2 * 300 * 300 / 0.01, rel=1e-6)


def test_a_zero_vector_is_not_a_number_of_its_own():
    query, key = torch.zeros(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = info_nce(query, key, 0.2)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert query.grad.isfinite().all()


def test_no_rows_are_allowed(gradients):
    loss, query, key = gradients(info_nce, *sample(0, 4), temperature=0.2)
    assert loss.shape == (0,)
    assert query.shape == (0, 7)
    assert not key.any()
    assert info_nce(*sample(0, 0), 0.2).shape == (0,)


def test_rows_weigh_as_their_upstream_gradients_say(close):
    query, key = sample()
    weights = torch.rand(5, dtype=torch.float64)
    one = torch.autograd.grad((info_nce(query, key, 0.2) * weights).sum(), query)[0]
    rows = [torch.autograd.grad(info_nce(query, key, 0.2)[i], query)[0] for i in range(5)]
    close(one, sum(w * row for w, row in zip(weights, rows, strict=True)))


def test_an_expanded_upstream_gradient_and_turned_inputs_are_read_right(close):
    query, key = sample()
    turned = query.detach().T.contiguous().T.requires_grad_()
    info_nce(turned, key, 0.2).sum().backward()
    close(turned.grad, torch.autograd.grad(reference.info_nce(query, key, 0.2).sum(), query)[0])


def test_no_array_of_rows_by_keys_is_saved():
    query, key, saved = *sample(64, 64, 2), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        info_nce(query, key, 0.2)
    assert saved
    assert max(tensor.numel() for tensor in saved) <= 64 * 2


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("at_once", [20, 1 << 22])
def test_the_gradient_for_keys_that_need_none_is_that_for_keys_that_do(
    normalize, at_once, gradients, close, monkeypatch
):
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
    query, key = sample()
    alone = gradients(info_nce, query, key.detach(), 0.2, 1, normalize)
    for actual, expected in zip(alone, gradients(info_nce, query, key, 0.2, 1, normalize)[:2], strict=True):
        close(actual, expected)


@pytest.mark.parametrize(("learned", "again"), [(True, True), (False, False)])
def test_similarities_are_computed_again_for_keys_that_need_a_gradient_alone(learned, again, called):
    query, key = sample()
    loss = info_nce(query, key if learned else key.detach(), 0.2)
    with called() as names:
        loss.sum().backward()
    assert ("info_nce_backward" in names) == again


def test_a_key_gradient_that_is_not_asked_for_is_not_made():
    query, key = (x.detach() for x in sample())
    loss, lse, _ = torch.ops.vitkiln.info_nce(query, key, 0.2, 0, -1, True, False, False)
    given = (torch.ones_like(loss), query, key, loss, lse, 0.2, 0, -1, True)
    assert torch.ops.vitkiln.info_nce_backward(*given, False, False)[1].numel() == 0


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_does_not_narrow_it(implementation, close):
    query, key = sample(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        loss = info_nce(query, key, 0.05)
    close(loss, loop(query, key, 0.05, 0), torch.float32)


def test_a_backward_pass_under_autocast_is_not_narrowed_either(close):
    query, key = sample(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        info_nce(query, key, 0.05).sum().backward()
    close(query.grad, torch.autograd.grad(reference.info_nce(query, key, 0.05).sum(), query)[0])


@pytest.mark.parametrize(("positive", "without"), [(1, 3), (-1, 0), (4, -1)])
@pytest.mark.parametrize("normalize", [True, False])
def test_registration(positive, without, normalize):
    query, key = sample()
    rest = (0.2, positive, without, normalize)
    torch.library.opcheck(torch.ops.vitkiln.info_nce.default, (query, key, *rest, False, False))
    torch.library.opcheck(torch.ops.vitkiln.info_nce.default, (query, key.detach(), *rest, True, False))


def test_compiles_without_a_break(gradients, close):
    arguments = (*sample(), 0.2, 1)
    compiled = torch.compile(info_nce, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(gradients(compiled, *arguments), gradients(info_nce, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(5)}, r"query: float32 \[5\] on cpu; must be a floating point tensor \[N, D\]"),
        ({"key": torch.zeros(9, 6)}, r"key: float32 \[9, 6\].*\[M, 7\]"),
        ({"key": torch.zeros(4, 7)}, "offset: 0; must be such that the positives, 5 keys, lie in 4"),
        ({"offset": 5}, "offset: 5"),
        ({"offset": -1}, "offset: -1"),
        ({"temperature": 0.0}, "temperature: 0.0; must be greater than 0"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"key": torch.zeros(9, 7, device="meta")}, "key: .*must be on cpu, as query is"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    query, key = sample()
    with pytest.raises(ValueError, match=message):
        info_nce(**{"query": query, "key": key, "temperature": 0.2, **changes})


@pytest.mark.parametrize(("temperature", "spread"), [(0.01, 1.0), (0.0001, 1.0), (1.0, 1e4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_and_duplicate_rows_are_right_and_finite(temperature, spread, dtype, gradients, close):
    query, key = sample(24, 40, 16, dtype)
    query = torch.cat([query.detach()[:12]] * 2).requires_grad_()
    key = torch.cat([query.detach(), key.detach()[:16]]).requires_grad_()
    both = [x.detach().double() * spread**0.5 for x in (query, key)]
    narrow = [x.to(dtype).requires_grad_() for x in both]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    settings = (temperature, 3, spread == 1.0)
    ours, theirs = gradients(info_nce, *narrow, *settings), gradients(reference.info_nce, *wide, *settings)
    close(ours[0], theirs[0], torch.float32)
    for actual, expected in zip(ours[1:], theirs[1:], strict=True):
        assert actual.isfinite().all()
        assert torch.linalg.vector_norm(actual - expected) <= 1e-2 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize(
    ("dtype", "width", "unavailable", "asked", "obstacle"),
    [
        (torch.bfloat16, 256, None, False, None),
        (torch.float16, 128, None, False, None),
        (torch.float16, 129, None, False, "the kernel takes up to 128 channels of torch.float16, not 129"),
        (torch.float32, 128, None, True, None),
        (torch.float32, 128, None, False, "in fp32 the kernel multiplies in tf32, which torch.set_float32_matmul"),
        (torch.float32, 128, "Triton is not installed", True, "Triton is not installed"),
        (torch.float64, 128, None, True, "the kernel adds in fp32, and an argument is float64"),
        (torch.bfloat16, 257, None, True, "the kernel takes up to 256 channels of torch.bfloat16, not 257"),
    ],
)
def test_the_rule_of_choice(dtype, width, unavailable, asked, obstacle):
    found = op.obstacle(dtype, width, unavailable, asked)
    assert found is None if obstacle is None else found.startswith(obstacle)
