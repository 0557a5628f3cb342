"""info_nce and nt_xent: the cross entropy of each row's softmax over similarities, without keeping them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkiln.kernels import info_nce, use
from vitkiln.kernels.contrastive import nt_xent, op, reference


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
    monkeypatch.setattr(op, "LOGITS_AT_ONCE", at_once)
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
    assert info_nce(query, key, 0.01, offset=1, normalize=False).item() == 2 * 300 * 300 / 0.01


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


def test_keys_without_gradient_cost_no_product(called):
    query, key = sample()
    loss = info_nce(query, key.detach(), 0.2)
    with called() as names:
        loss.sum().backward()
    assert "info_nce_backward" in names
    assert query.grad is not None
    to_key = torch.ops.vitkiln.info_nce_backward(loss.detach(), query, key, loss.detach(), 0.2, 0, False)[1]
    assert to_key.numel() == 0


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


def test_registration():
    torch.library.opcheck(torch.ops.vitkiln.info_nce.default, (*sample(), 0.2, 1))


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


def views(images=5, width=7, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return sample(images, images, width, dtype)


def pairwise(first: Tensor, second: Tensor, temperature: float) -> float:
    rows = [row / row.norm() for row in torch.cat([first, second]).detach().double()]
    count, losses = len(rows), []
    for i, anchor in enumerate(rows):
        scores = {j: (anchor @ rows[j]).item() / temperature for j in range(count) if j != i}
        positive = scores[(i + count // 2) % count]
        losses.append(math.log(sum(math.exp(score - positive) for score in scores.values())))
    return sum(losses) / count


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_nt_xent_means_what_a_loop_says(implementation, images):
    first, second = views(images)
    with use(implementation):
        assert nt_xent(first, second, 0.2).item() == pytest.approx(pairwise(first, second, 0.2), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("at_once", [1, 60, 1 << 22])
@pytest.mark.parametrize("shape", [(5, 7), (2, 1), (101, 5)])
def test_nt_xent_equals_its_reference_forward_and_backward(shape, at_once, gradients, close, monkeypatch):
    monkeypatch.setattr(op, "LOGITS_AT_ONCE", at_once)
    arguments = (*views(*shape), 0.2)
    for actual, expected in zip(gradients(nt_xent, *arguments), gradients(reference.nt_xent, *arguments), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nt_xent_is_computed_in_fp32_whatever_arrives(dtype, gradients, close):
    narrow = views(16, 32, dtype)
    wide = [x.detach().double().requires_grad_() for x in narrow]
    ours = gradients(nt_xent, *narrow, temperature=0.2)
    assert [x.dtype for x in ours] == [torch.float32, dtype, dtype]
    for actual, expected in zip(ours, gradients(nt_xent, *wide, temperature=0.2), strict=True):
        close(actual, expected)


def test_nt_xents_gradients_are_the_derivatives():
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.2), views())
    gathered = (*views(), *views(8))
    assert torch.autograd.gradcheck(lambda a, b, c, d: nt_xent(a, b, 0.2, c, d, offset=2), gathered)


@pytest.mark.parametrize(("images", "published"), [(256, 6.2364), (1024, 7.6241), (4096, 9.0108)])
def test_views_that_are_all_the_same_cost_the_logarithm_of_the_others(images, published):
    same = torch.ones(images, 2)
    assert round(nt_xent(same, same, 0.2).item(), 4) == published


def test_views_may_change_places(close):
    first, second = views()
    close(nt_xent(first, second, 0.2), nt_xent(second, first, 0.2))


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_mean_over_ranks_is_the_loss_of_the_joined_batch(ranks, implementation, close):
    first, second = views(6)
    whole = nt_xent(first, second, 0.2)
    with use(implementation):
        parts = [
            nt_xent(a, b, 0.2, first, second, offset=rank * len(a))
            for rank, (a, b) in enumerate(zip(first.chunk(ranks), second.chunk(ranks), strict=True))
        ]
    mean = torch.stack(parts).mean()
    close(mean, whole)
    pairs = (torch.autograd.grad(loss, (first, second)) for loss in (mean, whole))
    for actual, expected in zip(*pairs, strict=True):
        close(actual, expected)


def test_the_views_of_other_ranks_have_gradients_too():
    first, second, everyone = *views(2), views(6)
    nt_xent(first, second, 0.2, *everyone, offset=2).backward()
    for gathered in everyone:
        assert gathered.grad[[0, 1, 4, 5]].all()


def test_an_anchor_is_never_compared_with_itself(close):
    first, second = views(1)
    assert nt_xent(first, second, 0.2).item() == pytest.approx(0, abs=1e-12)
    first, second, others = *views(2), views(6)
    elsewhere = [torch.cat([x[:2], own.detach(), x[4:]]) for x, own in zip(others, (first, second), strict=True)]
    close(nt_xent(first, second, 0.2, *elsewhere, offset=2), reference.nt_xent(first, second, 0.2, *elsewhere, 2))


def test_views_of_different_types_meet_in_the_widest(close):
    first, second = views()
    loss = nt_xent(first.float(), second.bfloat16(), 0.2, first, second)
    assert loss.dtype == torch.float64
    close(loss, reference.nt_xent(first.float(), second.bfloat16(), 0.2, first, second), torch.float32)


def test_no_images_cost_nothing():
    first, second = views(0)
    loss = nt_xent(first, second, 0.2)
    loss.backward()
    assert loss.item() == 0
    assert first.grad.shape == (0, 7)


def test_large_similarities_do_not_overflow_nt_xent(gradients):
    first, second = views(6, dtype=torch.float32)
    same = torch.cat([first.detach()[:3]] * 2).requires_grad_()  # duplicates
    for result in gradients(nt_xent, 1e4 * same, 1e-4 * second, temperature=1e-3):
        assert result.isfinite().all()


def test_nt_xent_saves_no_array_of_rows_by_keys():
    first, second, saved = *views(64, 2), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nt_xent(first, second, 0.2)
    assert max(tensor.numel() for tensor in saved) <= 2 * 64 * 2


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_does_not_narrow_nt_xent(implementation):
    first, second = views(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        loss = nt_xent(first, second, 0.05)
    assert loss.item() == pytest.approx(pairwise(first, second, 0.05), rel=1e-5)


def test_rows_without_themselves_are_registered():
    query, key = sample()
    torch.library.opcheck(torch.ops.vitkiln.info_nce.default, (query, key, 0.2, 1, 3))


def test_nt_xent_compiles_without_a_break(gradients, close):
    first, second, everyone = *views(), views(8)
    compiled = torch.compile(nt_xent, backend="aot_eager", fullgraph=True)
    for arguments in ((first, second, 0.2), (first, second, 0.2, *everyone, 3)):
        for actual, expected in zip(gradients(compiled, *arguments), gradients(nt_xent, *arguments), strict=True):
            close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": torch.zeros(5)}, r"first: float32 \[5\] on cpu; must be a floating point tensor \[N, D\]"),
        ({"second": torch.zeros(4, 7)}, r"second: float32 \[4, 7\].*of the shape of first, \[5, 7\]"),
        ({"second": torch.zeros(5, 7, device="meta")}, "second: .*must be on cpu, as first is"),
        ({"temperature": 0.0}, "temperature: 0.0; must be greater than 0"),
        ({"all_first": torch.zeros(9, 7)}, "all_second: None; must be given where the other is"),
        ({"all_second": torch.zeros(9, 7)}, "all_first: None; must be given where the other is"),
        ({"all_first": torch.zeros(9, 6), "all_second": torch.zeros(9, 7)}, r"all_first: .*must be \[9, 7\]"),
        ({"all_first": torch.zeros(9, 7), "all_second": torch.zeros(8, 7)}, r"all_second: .*must be \[9, 7\]"),
        ({"offset": 1}, "offset: 1; must be such that this rank's rows, 5, lie in 5"),
        ({"all_first": torch.zeros(9, 7), "all_second": torch.zeros(9, 7), "offset": 5}, "offset: 5"),
        ({"offset": -1}, "offset: -1"),
    ],
)
def test_bad_arguments_of_nt_xent_are_named(changes, message):
    first, second = views()
    with pytest.raises(ValueError, match=message):
        nt_xent(**{"first": first, "second": second, "temperature": 0.2, **changes})
