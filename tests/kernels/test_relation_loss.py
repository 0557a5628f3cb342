"""relation_loss: nine relations of two patches, told by nine heads, without the logits of all pairs."""

import logging
import math

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import relation_loss, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels.relation_loss import chunks, op, reference, relation_labels

SHAPES = [(2, 9, 5), (1, 1, 1), (3, 4, 42), (1, 49, 21)]  # B, N, d
COUNTS = {4: (36, 24, 16), 5: (100, 50, 25), 6: (225, 90, 36), 7: (441, 147, 49), 8: (784, 224, 64)}
COUNTS[14] = (8281, 1274, 196)
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["reference", "torch"])


def grid(side: int, columns: int | None = None) -> tuple[Tensor, Tensor]:
    patch, columns = torch.arange(side * (columns or side)), columns or side
    return patch // columns, patch % columns


def sample(batch=2, length=9, width=5, dtype=torch.float64, shuffled=False) -> tuple[Tensor, ...]:
    """query, key, rows, cols: of a grid that is as square as can be, shuffled for each image if so asked."""
    query, key = (torch.randn(batch, 9, length, width, dtype=torch.float64).to(dtype) for _ in range(2))
    columns = math.isqrt(length)
    patch = torch.arange(length)
    if shuffled:
        patch = torch.stack([torch.randperm(length) for _ in range(batch)])
    return query.requires_grad_(), key.requires_grad_(), patch // columns, patch % columns


def seen_from(place: tuple[int, int], other: tuple[int, int]) -> int:
    """Its number in the list of the nine places around another patch, from above left to below right."""
    names = [(up, side) for up in ("above", "level", "below") for side in ("left", "same", "right")]
    (row, col), (other_row, other_col) = place, other
    up = "above" if row < other_row else "below" if row > other_row else "level"
    side = "left" if col < other_col else "right" if col > other_col else "same"
    return names.index((up, side))


def loop(query: Tensor, key: Tensor, rows: Tensor, cols: Tensor, smoothing: float) -> tuple[float, float]:
    """Pair by pair."""
    batch, _, length, width = query.shape
    rows, cols = rows.expand(batch, -1).tolist(), cols.expand(batch, -1).tolist()
    losses, hits = [], []
    for b in range(batch):
        for p in range(length):
            for q in range(length):
                guess = torch.log_softmax((query[b, :, p] * key[b, :, q]).sum(1) / math.sqrt(width), 0)
                label = seen_from((rows[b][p], cols[b][p]), (rows[b][q], cols[b][q]))
                losses.append((1 - smoothing) * -guess[label] - smoothing * guess.mean())
                hits.append(float(guess.argmax() == label))
    return float(sum(losses).detach() / len(losses)), sum(hits) / len(hits)


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", {"cpu": 9 * 9 * 2, "cuda": 0})


@pytest.mark.parametrize("side", range(3, 15))
def test_labels_are_those_of_the_definition(side):
    rows, cols = grid(side)
    places = list(zip(rows.tolist(), cols.tolist(), strict=True))
    assert relation_labels(rows, cols).tolist() == [[seen_from(p, q) for q in places] for p in places]


@pytest.mark.parametrize("side", COUNTS)
def test_every_class_is_as_frequent_as_counted(side):
    corner, edge, centre = COUNTS[side]
    counts = torch.bincount(relation_labels(*grid(side)).flatten(), minlength=9)
    assert counts.tolist() == [corner, edge, corner, edge, centre, edge, corner, edge, corner]


def test_labels_of_neighbours_have_the_papers_direction():
    labels = relation_labels(*grid(5))
    assert [labels[0, 1], labels[1, 0], labels[0, 5], labels[5, 0], labels[3, 3]] == [3, 5, 1, 7, 4]


@pytest.mark.parametrize("columns", [1, 4, 7])
def test_seen_the_other_way_round_a_label_is_its_opposite(columns):
    labels = relation_labels(*grid(5, columns))
    assert torch.equal(labels.T, 8 - labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shuffled", [False, True])
@IMPLEMENTATIONS
def test_means_what_a_loop_says(implementation, shuffled, smoothing):
    arguments = sample(shuffled=shuffled)
    with use(implementation):
        loss, accuracy = relation_loss(*arguments, smoothing)
    wanted = loop(*arguments, smoothing)
    assert (loss.item(), accuracy.item()) == (pytest.approx(wanted[0], rel=1e-12), pytest.approx(wanted[1]))


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("few_at_once")
def test_operator_equals_its_reference_forward_and_backward(shape, shuffled, smoothing, gradients):
    arguments = sample(*shape, shuffled=shuffled)
    theirs = gradients(reference.relation_loss, *arguments, smoothing)
    for actual, expected in zip(gradients(relation_loss, *arguments, smoothing), theirs, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-14)  # a lone patch has gradients that cancel


@pytest.mark.parametrize("logits", [1, 9 * 3, 9 * 9 * 3, 9 * 81 * 2, 1 << 20])
def test_how_much_is_done_at_once_changes_nothing(logits, monkeypatch, gradients, close):
    arguments = sample(3, shuffled=True)
    whole = *gradients(relation_loss, *arguments, 0.1), relation_loss(*arguments)[1]
    monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", {"cpu": logits})
    parts = *gradients(relation_loss, *arguments, 0.1), relation_loss(*arguments)[1]
    for actual, expected in zip(parts, whole, strict=True):
        close(actual, expected)


@pytest.mark.usefixtures("few_at_once")
def test_gradients_are_the_derivatives():
    query, key, rows, cols = sample(2, 4, 1, shuffled=True)
    assert torch.autograd.gradcheck(lambda q, k: relation_loss(q, k, rows, cols, 0.1)[0], (query, key))


@pytest.mark.parametrize("index", [0, 1])
def test_what_is_fixed_needs_no_gradient(index, close):
    query, key, rows, cols = sample()
    leaves = [query, key]
    wanted = torch.autograd.grad(reference.relation_loss(query, key, rows, cols)[0], leaves[index])[0]
    leaves[1 - index] = leaves[1 - index].detach()
    close(torch.autograd.grad(relation_loss(*leaves, rows, cols)[0], leaves[index])[0], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_agree_with_float64(dtype, gradients, close):
    query, key, rows, cols = sample(2, 49, 42, dtype)
    wide = [t.detach().double().requires_grad_() for t in (query, key)]
    loss, *grads = gradients(lambda q, k: relation_loss(1e3 * q, k, rows, cols)[0], query, key)
    theirs = gradients(lambda q, k: reference.relation_loss((1e3 * q.to(dtype)).double(), k, rows, cols)[0], *wide)
    assert (loss.dtype, grads[0].dtype) == (torch.float32, dtype)
    close(loss, theirs[0])
    for actual, expected in zip(grads, theirs[1:], strict=True):
        close(actual, expected, dtype)


@IMPLEMENTATIONS
def test_equal_logits_cost_ln_9_and_mean_the_first_class(implementation):
    zero, (rows, cols) = torch.zeros(2, 9, 16, 3), grid(4)
    with use(implementation):
        loss, accuracy = relation_loss(zero, zero, rows, cols)
    assert loss.item() == pytest.approx(2.1972, abs=5e-5)
    assert accuracy.item() == pytest.approx(36 / 256)


@IMPLEMENTATIONS
def test_of_equal_largest_logits_the_lowest_class_counts(implementation):
    query, (rows, cols) = torch.zeros(1, 9, 16, 1), grid(4)
    query[:, [3, 5]] = 1.0  # on the left and on the right of one another, in 24 of 256 pairs each
    with use(implementation):
        assert relation_loss(query, torch.ones_like(query), rows, cols)[1].item() == pytest.approx(24 / 256)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_large_logits_stay_right(smoothing, gradients, close):
    rows, cols = grid(4)
    query = torch.randint(-1, 2, (2, 9, 16, 4)).float().mul(1e4).requires_grad_()
    key = torch.randint(-1, 2, (2, 9, 16, 4)).float().requires_grad_()
    ours = gradients(relation_loss, query, key, rows, cols, smoothing)
    wide = [t.detach().double().requires_grad_() for t in (query, key)]
    for actual, expected in zip(ours, gradients(reference.relation_loss, *wide, rows, cols, smoothing), strict=True):
        assert actual.isfinite().all()
        close(actual, expected)


@IMPLEMENTATIONS
def test_patches_in_another_order_with_their_places_cost_the_same(implementation, close):
    query, key, rows, cols = (t.detach() for t in sample(1, 16, 5))
    order = torch.randperm(16)
    with use(implementation):
        plain = relation_loss(query, key, rows, cols)
        moved = relation_loss(query[:, :, order], key[:, :, order], rows[order][None], cols[order][None])
    for actual, expected in zip(moved, plain, strict=True):
        close(actual, expected)


def test_places_far_apart_are_no_less_apart():
    far = torch.tensor([-(2**31), 2**31 - 1])
    assert relation_labels(far, far).tolist() == [[4, 0], [8, 4]]


def test_views_of_one_projection_and_expanded_gradients(close):
    packed = torch.randn(2, 9, 2, 9, 5, dtype=torch.float64, requires_grad=True)
    rows, cols = grid(3)
    query, key = packed.permute(2, 0, 3, 1, 4)
    ours = torch.autograd.grad(relation_loss(query, key, rows, cols)[0].expand(3).sum(), packed)[0]
    close(ours, torch.autograd.grad(3 * reference.relation_loss(query, key, rows, cols)[0], packed)[0])


@pytest.mark.parametrize("shape", [(0, 9, 5), (2, 0, 5)])
@IMPLEMENTATIONS
def test_no_pairs_cost_nothing(shape, implementation, gradients):
    query, key, _, _ = sample(*shape[:1], 9, 5)
    query, key = (t.detach()[:, :, : shape[1]].requires_grad_() for t in (query, key))
    rows = torch.arange(shape[1])
    with use(implementation):
        loss, *grads = gradients(relation_loss, query, key, rows, rows)
    assert loss.item() == 0
    assert [grad.shape for grad in grads] == [query.shape, key.shape]
    assert not any(grad.any() for grad in grads)


def test_autocast_and_mixed_types_change_nothing_but_the_types_given():
    query, key, rows, cols = sample(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for implementation in ("reference", "torch"):
            with use(implementation):
                assert relation_loss(query, key, rows, cols)[0].dtype == torch.float32
        inside = relation_loss(query, key, rows, cols)[0]
        mixed = relation_loss(query.bfloat16(), key, rows, cols)[0]
    assert torch.equal(inside, relation_loss(query, key, rows, cols)[0])
    assert mixed.item() == pytest.approx(relation_loss(query.bfloat16().float(), key, rows, cols)[0].item(), rel=1e-6)


def test_nothing_of_all_pairs_is_kept():
    saved = []
    arguments = sample(2, 16, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        relation_loss(*arguments)
    assert sorted(saved) == sorted(t.numel() for t in arguments)


@pytest.mark.parametrize("shuffled", [False, True])
def test_registration(shuffled):
    query, key, rows, cols = sample(shuffled=shuffled)
    places = [x.reshape(-1, 9) for x in (rows, cols)]
    torch.library.opcheck(torch.ops.vitkiln.relation_loss.default, (query, key, *places, 0.1, "torch"))


def test_compiles_without_a_break(gradients, close):
    arguments = sample()
    compiled = torch.compile(relation_loss, backend="aot_eager", fullgraph=True)
    ours = gradients(compiled, *arguments)
    for actual, expected in zip(ours, gradients(reference.relation_loss, *arguments), strict=True):
        close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(2, 9, 4)}, r"query: float32 \[2, 9, 4\] on cpu; must be .* \[B, 9, N, d\]"),
        ({"query": torch.zeros(2, 8, 4, 3)}, r"query: .*\[2, 8, 4, 3\].* a head for each of nine relations"),
        ({"query": torch.zeros(2, 9, 4, 0)}, r"query: .*\[2, 9, 4, 0\]"),
        ({"key": torch.zeros(2, 9, 5, 3)}, r"key: .*; must be a floating point tensor \[2, 9, 4, 3\], as query is"),
        ({"key": torch.zeros(2, 9, 4, 3, device="meta")}, "key: .*on meta; must be on cpu, as query is"),
        ({"rows": torch.zeros(4)}, r"rows: float32 \[4\] on cpu; must be int64 \[4\] or \[2, 4\]"),
        ({"cols": torch.zeros(3, 4, dtype=torch.int64)}, r"cols: int64 \[3, 4\].* must be int64 \[4\] or \[2, 4\]"),
        ({"cols": torch.zeros(2, 4, dtype=torch.int64)}, r"cols: int64 \[2, 4\].* of the shape of rows, \[4\]"),
        ({"smoothing": 1.5}, "smoothing: 1.5; must be from 0 to 1"),
        ({"smoothing": math.nan}, "smoothing: nan; must be from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    given = {"query": torch.zeros(2, 9, 4, 3), "key": torch.zeros(2, 9, 4, 3)}
    given |= dict.fromkeys(("rows", "cols"), torch.arange(4))
    with pytest.raises(ValueError, match=message):
        relation_loss(**given | changes)


@pytest.mark.parametrize(
    ("dtype", "width", "unavailable", "obstacle"),
    [
        (torch.bfloat16, 42, None, None),
        (torch.float32, 128, None, None),
        (torch.float16, 42, "Triton is not installed", "Triton is not installed"),
        (torch.float64, 42, None, "the kernel adds in fp32, and an argument is float64"),
        (torch.bfloat16, 129, None, "the kernel takes heads up to 128 wide, not 129"),
    ],
)
def test_the_rule_of_choice(dtype, width, unavailable, obstacle):
    assert op.obstacle(dtype, width, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "relation_loss"):
        relation_loss(*sample())
    said = [r.getMessage() for r in caplog.records]
    assert said == ["relation_loss: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("length", "width"), [(49, 42), (64, 21), (196, 42), (196, 85), (300, 64)])
def test_on_a_gpu_it_agrees_with_float64(length, width, dtype, implementation, gradients, close):
    query, key, rows, cols = (t.cuda() for t in sample(8, length, width, dtype, shuffled=True))
    query, key = (t.detach().requires_grad_() for t in (query, key))

    def loss(query: Tensor, key: Tensor) -> Tensor:
        return relation_loss(query, key, rows, cols)[0] * 1e4  # so that fp16 holds the gradients

    with use(implementation, "relation_loss"):
        ours, again = gradients(loss, query, key), gradients(loss, query, key)
    with use("reference"):
        theirs = gradients(loss, *(t.detach().double().requires_grad_() for t in (query, key)))
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, dtype)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.gpu
def test_on_a_gpu_nothing_of_all_pairs_exists():
    query, key, rows, cols = (t.cuda() for t in sample(64, 196, 42, torch.bfloat16))
    query, key = (t.detach().requires_grad_() for t in (query, key))
    torch.autograd.grad(relation_loss(query, key, rows, cols)[0], (query, key))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(relation_loss(query, key, rows, cols)[0], (query, key))
    assert torch.cuda.max_memory_allocated() - before < 2.2 * query.numel() * 2  # of 21 such for the logits in fp32
