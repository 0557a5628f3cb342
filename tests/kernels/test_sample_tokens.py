"""sample_tokens: a shuffle of each image's patches; some are kept, and some of them told a wrong place."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vitkiln.kernels import sample_tokens, uniform, use
from vitkiln.kernels._shared import choice
from vitkiln.kernels._shared.philox import ORDER, WRONG, bits, fraction
from vitkiln.kernels.sample_tokens import op

SEED = torch.tensor([7, 3])


@st.composite
def draws(draw) -> tuple[Tensor, Tensor, int, int, float]:
    patches = draw(st.integers(2, 300))
    run, step = draw(st.integers(0, 2**62)), draw(st.integers(0, 2**31))
    ids = draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=3, unique=True))
    keep, probability = draw(st.integers(1, patches)), draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    return torch.tensor([run, step]), torch.tensor(ids), patches, keep, probability


@given(draws())
def test_kept_patches_are_distinct_and_in_range(arguments):
    keep, _, _, restore = sample_tokens(*arguments)
    patches = arguments[2]
    assert all(len(set(row)) == arguments[3] and set(row) <= set(range(patches)) for row in keep.tolist())
    assert torch.equal(restore.sort(1).values, torch.arange(patches).expand_as(restore))


@given(draws())
def test_a_token_is_told_another_place_exactly_where_it_is_wrong(arguments):
    keep, place, wrong, _ = sample_tokens(*arguments)
    assert torch.equal(keep != place, wrong)


@given(draws())
def test_places_are_distinct_within_an_image_while_donors_are_dropped_patches(arguments):
    seed, ids, patches, keep, probability = arguments
    _, place, _, _ = sample_tokens(seed, ids, patches, min(keep, patches // 2), probability)
    assert all(len(set(row)) == len(row) for row in place.tolist())


@given(draws())
def test_restore_puts_the_shuffle_back_in_order(arguments):
    seed, ids, patches, keep, probability = arguments
    order = sample_tokens(seed, ids, patches, patches, probability)[0]
    restore = sample_tokens(*arguments)[3]
    assert torch.equal(order.gather(1, restore), torch.arange(patches).expand_as(order))
    assert torch.equal(order[:, :keep], sample_tokens(*arguments)[0])


@given(draws())
def test_neither_batch_split_nor_order_matters(arguments):
    seed, ids, *rest = arguments
    whole = sample_tokens(seed, ids, *rest)
    parts = [sample_tokens(seed, ids[i : i + 1], *rest) for i in reversed(range(len(ids)))][::-1]
    for expected, *actual in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(actual), expected)


@pytest.mark.parametrize("patches", [2, 49, 256, 257])
def test_the_order_is_that_of_24_random_bits_then_index(patches):
    ids = torch.arange(5)
    order = sample_tokens(SEED, ids, patches, patches)[0]
    for row, drawn in zip(order.tolist(), bits(SEED, ids, (patches, ORDER))[0].tolist(), strict=True):
        assert row == sorted(range(patches), key=lambda index: (drawn[index], index))


@pytest.mark.parametrize("patches", [2, 3, 4, 49, 50])
def test_where_all_are_kept_every_wrong_place_is_anothers(patches):
    keep, place, wrong, _ = sample_tokens(SEED, torch.arange(50), patches, patches, 1.0)
    assert wrong.all()
    assert (keep != place).all()
    assert torch.equal(place.sort(1).values, keep.sort(1).values)


def test_donors_are_the_last_of_the_order():
    order = sample_tokens(SEED, torch.arange(3), 10, 10)[0]
    place = sample_tokens(SEED, torch.arange(3), 10, 4, 1.0)[1]
    assert torch.equal(place, order[:, 6:])


def test_nothing_is_wrong_at_probability_zero():
    keep, place, wrong, _ = sample_tokens(SEED, torch.arange(50), 196, 49)
    assert not wrong.any()
    assert torch.equal(keep, place)


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5])
def test_the_share_of_wrong_tokens_is_the_probability(probability):
    wrong = sample_tokens(SEED, torch.arange(400), 196, 49, probability)[2].double()
    deviation = (probability * (1 - probability) / wrong.numel()) ** 0.5
    assert abs(wrong.mean() - probability) < 5 * deviation


def test_a_number_that_equals_the_probability_is_not_wrong():
    drawn = fraction(bits(SEED, torch.arange(1), (49, WRONG))[0])[0]
    wrong = sample_tokens(SEED, torch.arange(1), 196, 49, drawn[10].item())[2][0]
    assert torch.equal(wrong, drawn < drawn[10])
    assert not wrong[10]


def test_every_patch_is_kept_equally_often():
    images, patches, kept = 4000, 16, 4
    counts = torch.bincount(sample_tokens(SEED, torch.arange(images), patches, kept)[0].flatten(), minlength=patches)
    expected = images * kept / patches
    assert ((counts - expected) ** 2 / (expected * (1 - kept / patches))).sum() < 45  # chi-square, 15 degrees: p < 1e-4


def test_wrong_labels_do_not_follow_from_the_order():
    ids = torch.arange(2000)
    keep, _, wrong, _ = sample_tokens(SEED, ids, 16, 8, 0.5)
    both = torch.stack([keep.flatten().double(), wrong.flatten().double()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.03


@pytest.mark.parametrize("step", [0, 4])
def test_another_step_draws_another_plan(step):
    keep = sample_tokens(torch.tensor([7, step]), torch.arange(3), 196, 49)[0]
    assert not torch.equal(keep, sample_tokens(SEED, torch.arange(3), 196, 49)[0])


def test_streams_of_the_caller_are_not_the_operators():
    caller = (uniform(SEED, torch.arange(3), 64) * 2**24).long()
    assert not torch.equal(caller, bits(SEED, torch.arange(3), (64, ORDER))[0])
    assert not torch.equal(caller, bits(SEED, torch.arange(3), (64, WRONG))[0])


def test_reference_and_operator_agree():
    with use("reference"):
        expected = sample_tokens(SEED, torch.arange(3), 30, 11, 0.3)
    for ours, theirs in zip(sample_tokens(SEED, torch.arange(3), 30, 11, 0.3), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_an_empty_batch_gives_empty_plans():
    keep, place, wrong, restore = sample_tokens(SEED, torch.empty(0, dtype=torch.int64), 9, 4, 0.5)
    assert [tuple(t.shape) for t in (keep, place, wrong, restore)] == [(0, 4)] * 3 + [(0, 9)]


def test_one_patch_is_kept_in_its_place():
    keep, place, wrong, restore = sample_tokens(SEED, torch.arange(2), 1, 1)
    assert not torch.stack([keep, place, wrong.long(), restore]).any()


def test_registration():
    torch.library.opcheck(torch.ops.vitkiln.sample_tokens.default, (SEED, torch.arange(3), 9, 4, 0.5, "torch"))


def test_compiles_without_a_break():
    compiled = torch.compile(sample_tokens, backend="aot_eager", fullgraph=True)
    for ours, expected in zip(
        compiled(SEED, torch.arange(3), 9, 4, 0.5),
        sample_tokens(SEED, torch.arange(3), 9, 4, 0.5),
        strict=True,
    ):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": torch.zeros(2)}, "seed: float32"),
        ({"sample_ids": torch.zeros(2, 1, dtype=torch.int64)}, r"sample_ids: int64 \[2, 1\]"),
        ({"num_patches": 0}, "num_patches: 0"),
        ({"keep": 0}, "keep: 0; must be from 1 to num_patches, 9"),
        ({"keep": 10}, "keep: 10"),
        ({"wrong_probability": 1.5}, "wrong_probability: 1.5; must be from 0 to 1"),
        ({"wrong_probability": float("nan")}, "wrong_probability: nan"),
        ({"num_patches": 1, "keep": 1, "wrong_probability": 0.1}, "wrong_probability: 0.1; .*one patch"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"seed": SEED, "sample_ids": torch.arange(2), "num_patches": 9, "keep": 4, **changes}
    with pytest.raises(ValueError, match=message):
        sample_tokens(**arguments)


@pytest.mark.parametrize(
    ("patches", "unavailable", "obstacle"),
    [
        (1, None, None),
        (1024, None, None),
        (1025, None, "the kernel sorts up to 1024 patches, not 1025"),
        (196, "Triton is not installed", "Triton is not installed"),
    ],
)
def test_the_rule_of_choice(patches, unavailable, obstacle):
    assert op.obstacle(patches, unavailable) == obstacle


def test_a_kernel_asked_for_in_vain_is_logged_with_its_reason(caplog):
    choice._note_once.cache_clear()
    with caplog.at_level(logging.WARNING), use("triton", "sample_tokens"):
        sample_tokens(SEED, torch.arange(3), 9, 4)
        sample_tokens(SEED, torch.arange(3), 9, 4)
    said = [r.getMessage() for r in caplog.records]
    assert said == ["sample_tokens: runs in plain PyTorch, because Triton needs a CUDA device, not cpu"]
