"""sup_con: every view against all views of its class, by sums of classes instead of a matrix of labels."""

import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import nt_xent, sup_con, use
from vitkiln.kernels.contrastive import chunks, reference

LABELS = torch.tensor([4, -7, 4, 4, 90, -7, 3])  # two classes of one image each


def features(images=7, views=2, width=5, dtype=torch.float64) -> Tensor:
    return torch.randn(images, views, width, dtype=dtype, requires_grad=True)


def loop(given: Tensor, labels: Tensor, temperature: float) -> float:
    rows = [(row / row.norm(), label) for image, label in zip(given.detach(), labels, strict=True) for row in image]
    losses = []
    for i, (anchor, label) in enumerate(rows):
        scores = {j: (anchor @ row).item() / temperature for j, (row, _) in enumerate(rows) if j != i}
        positives = [score for j, score in scores.items() if rows[j][1] == label]
        if positives:
            log_total = math.log(sum(math.exp(score) for score in scores.values()))
            losses.append(log_total - sum(positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_means_what_a_loop_says(implementation, views):
    given = features(views=views)
    with use(implementation):
        loss = sup_con(given, LABELS, 0.2).item()
        assert loss == pytest.approx(loop(given, LABELS, 0.2), rel=1e-12)
        assert sup_con(given, LABELS, 0.2, 0.07).item() == pytest.approx(loss * 0.2 / 0.07, rel=1e-12)


@pytest.mark.parametrize("at_once", [1, 60, 1 << 22])
@pytest.mark.parametrize(("images", "views", "classes"), [(7, 2, 3), (31, 1, 12), (50, 3, 1), (9, 2, 100)])
def test_equals_its_reference_forward_and_backward(images, views, classes, at_once, gradients, close, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
    arguments = (features(images, views), torch.randint(0, classes, (images,)), 0.1, 0.07)
    for actual, expected in zip(gradients(sup_con, *arguments), gradients(reference.sup_con, *arguments), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("views", [1, 2])
def test_gradients_are_the_derivatives(views):
    assert torch.autograd.gradcheck(lambda f: sup_con(f, LABELS, 0.2), features(views=views))
    everyone, labels = features(9, views), torch.cat([LABELS[:2], LABELS])

    def gathered(mine, of_all):
        return sup_con(mine, labels[3:6], 0.2, None, of_all, labels, offset=3)

    assert torch.autograd.gradcheck(gathered, (features(3, views), everyone))


def test_identical_features_cost_the_logarithm_of_the_others():
    labels = torch.arange(128) % 10
    assert round(sup_con(torch.ones(128, 2, 16), labels, 0.1, 0.07).item(), 4) == 7.9161


def test_collapsed_classes_cost_their_size_and_not_nothing():
    labels = torch.arange(100) % 10
    collapsed = torch.eye(10, dtype=torch.float64)[labels][:, None].expand(100, 2, 10)
    expected = 0.1 / 0.07 * math.log(19 + 180 * math.exp(-10))
    assert round(sup_con(collapsed, labels, 0.1, 0.07).item(), 5) == round(expected, 5) == 4.20696


def test_labels_that_all_differ_give_nt_xent(close):
    given = features()
    close(sup_con(given, torch.arange(7), 0.2), nt_xent(given[:, 0], given[:, 1], 0.2))


def test_images_and_views_may_change_places(close):
    given, order = features(), torch.randperm(7)
    close(sup_con(given[order].flip(1), LABELS[order], 0.2), sup_con(given, LABELS, 0.2))


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_an_anchor_without_positives_counts_nothing(implementation, close):
    given = features(views=1)
    with use(implementation):
        loss = sup_con(given, LABELS, 0.2)
        alone = sup_con(given, torch.arange(7), 0.2)
    assert loss.item() == pytest.approx(loop(given, LABELS, 0.2), rel=1e-12)
    alone.backward()
    assert alone.item() == 0
    assert not given.grad.any()


@pytest.mark.parametrize("shape", [(0, 2), (1, 1)])
def test_no_pairs_cost_nothing(shape, gradients):
    loss, grad = gradients(sup_con, features(*shape), torch.zeros(shape[0], dtype=torch.int64), 0.1)
    assert loss.item() == 0
    assert not grad.any()


@pytest.mark.parametrize("implementation", ["reference", "torch"])
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("views", [1, 2])
def test_the_mean_over_ranks_is_the_loss_of_the_joined_batch(views, ranks, implementation, close):
    labels = torch.tensor([0, 0, 1, 5, 0, 1])  # one image has no other of its class, so ranks count unequally
    given = features(6, views)
    whole = sup_con(given, labels, 0.2, 0.1)
    with use(implementation):
        parts = [
            sup_con(f, y, 0.2, 0.1, given, labels, offset=rank * len(f))
            for rank, (f, y) in enumerate(zip(given.chunk(ranks), labels.chunk(ranks), strict=True))
        ]
    mean = torch.stack(parts).mean()
    close(mean, whole)
    close(*(torch.autograd.grad(loss, given)[0] for loss in (mean, whole)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("temperature", "classes"), [(0.1, 4), (0.01, 4), (0.1, 1)])
def test_is_computed_in_fp32_whatever_arrives(temperature, classes, dtype, gradients, close):
    given = torch.cat([features(16, 2, 32, dtype).detach()] * 2).requires_grad_()  # every row has a duplicate
    labels = torch.arange(32) % classes
    ours = gradients(sup_con, given, labels, temperature)
    assert [x.dtype for x in ours] == [torch.float32, dtype]
    wide = gradients(reference.sup_con, given.detach().double().requires_grad_(), labels, temperature)
    for actual, expected in zip(ours, wide, strict=True):
        close(actual, expected)


def test_features_of_ten_thousand_are_brought_to_unit_length(close):
    given = features(dtype=torch.float32)
    close(sup_con(1e4 * given, LABELS, 0.1), sup_con(given, LABELS, 0.1))


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_autocast_does_not_narrow_it(implementation):
    given = features(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), use(implementation):
        loss = sup_con(given, LABELS, 0.05)
    assert loss.item() == pytest.approx(loop(given, LABELS, 0.05), rel=1e-5)


def test_saves_no_array_of_rows_by_rows():
    given, saved = features(64, 2, 3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        sup_con(given, torch.arange(64) % 5, 0.2)
    assert max(tensor.numel() for tensor in saved) <= 64 * 2 * 3


def test_compiles_without_a_break(gradients, close):
    everyone, labels = features(9), torch.cat([LABELS, LABELS[:2]])
    compiled = torch.compile(sup_con, backend="aot_eager", fullgraph=True)
    for arguments in ((features(), LABELS, 0.2, 0.07), (features(2), labels[5:7], 0.2, None, everyone, labels, 5)):
        for actual, expected in zip(gradients(compiled, *arguments), gradients(sup_con, *arguments), strict=True):
            close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": torch.zeros(7, 5)}, r"features: float32 \[7, 5\] on cpu; .* tensor \[N, V, D\]"),
        ({"labels": torch.zeros(6, dtype=torch.int64)}, r"labels: int64 \[6\].*int64 \[7\], as features has images"),
        ({"labels": torch.zeros(7)}, r"labels: float32 \[7\]"),
        ({"labels": LABELS.to("meta")}, "labels: .*must be on cpu, as features is"),
        ({"temperature": 0.0}, "temperature: 0.0; must be greater than 0"),
        ({"base_temperature": -1.0}, "base_temperature: -1.0; must be greater than 0"),
        ({"all_features": torch.zeros(9, 2, 5)}, "all_labels: None; must be given where the other is"),
        ({"all_labels": LABELS}, "all_features: None; must be given where the other is"),
        ({"all_features": torch.zeros(7, 3, 5), "all_labels": LABELS}, r"all_features: .*\[M, 2, 5\], as features is"),
        ({"all_features": torch.zeros(9, 2, 5), "all_labels": LABELS}, r"all_labels: .*int64 \[9\]"),
        ({"offset": 1}, "offset: 1; must be such that this rank's images, 7, lie in 7"),
        ({"offset": -1}, "offset: -1"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        sup_con(**{"features": features(), "labels": LABELS, "temperature": 0.2, **changes})
