"""nt_xent: every view of every image against all other views of all images."""

import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import nt_xent, use
from vitkiln.kernels.contrastive import chunks, reference


def views(images=5, width=7, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(images, width, dtype=dtype, requires_grad=True) for _ in range(2))


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
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
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
