"""group_mask: rectangles are covered until a share of the pixels is, and that always ends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitkiln.kernels import group_mask, sample_tokens, uniform, use
from vitkiln.kernels._shared.native import native
from vitkiln.kernels._shared.philox import BLOCKS, bits
from vitkiln.kernels.groups.bitmap import pack, unpack
from vitkiln.kernels.groups.mask import blocks_taken, first_cover
from vitkiln.kernels.groups.rule import needed_units, random_words, rule_of

SEED = torch.tensor([7 - 2**40, 2**31 + 3])  # both halves of the run's seed count, and all bits of the step
IDS = torch.tensor([3, 2**40 + 5, -1])
SIZE = (224, 224)


def dividing(*sides: int) -> list[int]:
    return [align for align in range(1, min(sides) + 1) if all(side % align == 0 for side in sides)]


EVERY = [(side, align) for side in range(32, 225) for align in dividing(side)]


@st.composite
def draws(draw) -> dict:
    """Any mask: sizes are multiples of the alignment."""
    align = draw(st.integers(1, 9))
    size = tuple(align * draw(st.integers(1, 40 // align)) for _ in range(2))
    target = draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75, 1.0]))
    anchor = draw(st.sampled_from(["corner", "centered"]))
    return {
        "size": size,
        "target": target,
        "align": align,
        "anchor": anchor,
        "max_block": draw(st.sampled_from([0.3, 0.9])),
    }


def published(seed: Tensor, sample: int, target: float, align: int, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """The published loop on our random numbers, in pixels, and how many blocks it took."""
    covered, block = np.zeros(size, bool), 0
    words = bits(seed, torch.tensor([sample]), (4 * 300, BLOCKS))[0].view(300, 4).tolist()
    while covered.sum() < target * covered.size:
        (spans, block) = [span(*words[block][axis::2], size[axis], align) for axis in (0, 1)], block + 1
        covered[tuple(slice(*each) for each in spans)] = True
    return covered, block


def span(place: int, extent: int, side: int, align: int) -> tuple[int, int]:
    """As published, along an axis; two random words of 24 bits."""
    first = place * (side - align) // 2**24 // align * align
    length = min(align + extent * (int(0.3 * side) - align) // 2**24, side - first)
    return first, first + round(length / align) * align


@pytest.mark.parametrize("size", [(224, 224), (96, 224), (320, 64)])
@pytest.mark.parametrize("align", [1, 4, 8, 16])
def test_blocks_are_the_published_ones(size, align):
    for sample in (0, 11):
        expected, taken = published(SEED, sample, 0.4, align, size)
        mask = group_mask(SEED, torch.tensor([sample]), size, 0.4, align)[1]
        assert taken < 267
        assert torch.equal(mask[0], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("align", "share", "replaced", "expected"),
    [  # of the published code: fraction, full and partial patches, blocks and the most, first, middle and last patch
        (1, 0.75, False, (0.632, 0.345, 0.515, 59, 114, 0.07, 0.73, 0.70)),
        (1, 0.30, True, (0.315, 0.130, 0.418, 20.5, 35, 0.02, 0.37, 0.37)),
        (16, 0.75, False, (0.64, 0.65, 0.0, 33, 66, 0.20, 0.73, 0.36)),
        (16, 0.30, True, (0.315, 0.315, 0.0, 11.9, 21, 0.08, 0.37, 0.15)),
    ],
)
def test_statistics_are_the_published_ones(align, share, replaced, expected):
    """Of 400 masks, as many as the published figures are of at most: within five standard errors of either."""
    ids = torch.arange(400)
    least = share if replaced else 0.5
    target = least + (share - least) * uniform(SEED, ids, 1)[:, 0]
    mask = group_mask(SEED, ids, SIZE, target, align)[1]
    patches = mask.view(400, 14, 16, 14, 16).double().mean((2, 4))
    full, partial = (patches == 1).double().mean(), ((patches > 0) & (patches < 1)).double().mean()
    fraction, _, _, blocks, most, *corners = expected
    taken = count_blocks(ids[:100], target[:100], align)
    assert mask.double().mean().item() == pytest.approx(fraction, abs=0.02)
    assert [full.item(), partial.item()] == pytest.approx(expected[1:3], abs=0.025)
    assert taken.double().mean().item() == pytest.approx(blocks, rel=0.15)
    assert taken.max() < 1.5 * most
    found = [patches[:, 0, 0].mean(), patches[:, 6:8, 6:8].mean(), patches[:, -1, -1].mean()]
    assert [value.item() for value in found] == pytest.approx(corners, abs=0.11)


def count_blocks(ids: Tensor, target: Tensor, align: int) -> Tensor:
    rule = rule_of(SIZE, align, 0.3, "corner")
    needed = needed_units(target, rule)
    return blocks_taken(first_cover(random_words(SEED, ids, rule), needed, rule), needed, rule.draws)


def test_both_kinds_together_cover_what_is_published():
    """Half of the images by noise, half by others, of pixels: 0.474."""
    ids = torch.arange(600)
    share, half = uniform(SEED, ids, 2).unbind(1)
    target = torch.where(half < 0.5, 0.3, 0.5 + 0.25 * share)
    assert group_mask(SEED, ids, SIZE, target)[1].double().mean().item() == pytest.approx(0.474, abs=0.02)


@pytest.mark.parametrize("part", range(4))
def test_every_size_and_alignment_reaches_its_target(part):
    for side, align in EVERY[part::4]:
        mask = group_mask(SEED, IDS[:2], (side, side), 0.75, align)[1]
        assert (mask.sum((1, 2)) >= 0.75 * side * side).all(), (side, align)


@given(draws())
def test_any_mask_reaches_its_target_and_by_less_than_a_block(arguments):
    mask = group_mask(SEED, IDS, **arguments)[1]
    height, width = arguments["size"]
    align, most = arguments["align"], arguments["max_block"]
    largest = [max(align, -(-int(most * side) // align) * align) for side in (height, width)]
    covered, target = mask.sum((1, 2)), arguments["target"] * height * width
    assert (covered >= target).all()
    assert (covered < target + largest[0] * largest[1]).all()


@given(draws())
def test_masks_are_made_of_whole_units(arguments):
    mask, align = group_mask(SEED, IDS, **arguments)[1], arguments["align"]
    units = mask[:, ::align, ::align]
    assert torch.equal(units.repeat_interleave(align, 1).repeat_interleave(align, 2), mask)


@given(draws())
def test_the_bitmap_is_the_mask(arguments):
    bitmap, mask = group_mask(SEED, IDS, **arguments)
    assert torch.equal(unpack(bitmap, arguments["size"][1]), mask)
    assert torch.equal(pack(mask), bitmap)


@given(draws())
@settings(max_examples=30)
def test_implementations_agree_to_the_bit(arguments):
    with use("reference", "groups"):
        expected = group_mask(SEED, IDS, **arguments)
    with use("torch", "groups"):
        vectorised = group_mask(SEED, IDS, **arguments)
    for found in (vectorised, group_mask(SEED, IDS, **arguments)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(not native("groups"), reason="nothing to compare")
@pytest.mark.parametrize(
    ("size", "align", "anchor"),
    [(SIZE, 1, "corner"), (SIZE, 16, "centered"), ((96, 160), 2, "corner"), ((40, 700), 1, "corner")],
)
def test_native_masks_equal_the_vectorised(size, align, anchor):
    target = torch.tensor([0.3, 0.75, 1.0])
    with use("torch", "groups"):
        expected = group_mask(SEED, IDS, size, target, align, anchor=anchor)
    found = group_mask(SEED, IDS, size, target, align, anchor=anchor)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_neither_batch_split_nor_order_matters():
    target = torch.tensor([0.3, 0.75, 0.5])
    whole = group_mask(SEED, IDS, SIZE, target)[1]
    for row in (2, 0, 1):
        assert torch.equal(group_mask(SEED, IDS[row : row + 1], SIZE, target[row : row + 1])[1][0], whole[row])


@pytest.mark.parametrize("seed", [SEED + torch.tensor([1, 0]), SEED + torch.tensor([0, 1])])
def test_another_seed_or_step_draws_another_mask(seed):
    assert not torch.equal(group_mask(seed, IDS, SIZE, 0.5)[1], group_mask(SEED, IDS, SIZE, 0.5)[1])


def test_a_larger_target_only_adds():
    less, more = (group_mask(SEED, IDS, SIZE, target)[1] for target in (0.3, 0.6))
    assert (more | ~less).all()


def test_targets_of_images_are_their_own():
    target = torch.tensor([0.0, 0.3, 1.0])
    covered = group_mask(SEED, IDS, SIZE, target, 16)[1].double().mean((1, 2))
    assert covered[0] == 0
    assert 0.3 <= covered[1] < 0.4
    assert covered[2] == 1


def test_a_centered_anchor_covers_opposite_borders_alike():
    ids = torch.arange(600)
    patches = group_mask(SEED, ids, SIZE, 0.5, 16, anchor="centered")[1][:, ::16, ::16].double().mean(0)
    rows, columns = patches.mean(1), patches.mean(0)
    for lines in (rows, columns):
        assert abs(lines[0] - lines[-1]) < 0.06
        assert lines[0] > 0.6 * lines[7]


def test_masks_of_a_step_do_not_follow_from_its_plans():
    drawn = bits(SEED, IDS, (64, BLOCKS))[0]
    for stream in (0, 128, 129, 131):
        assert not torch.equal(bits(SEED, IDS, (64, stream))[0], drawn)
    assert sample_tokens(SEED, IDS, 196, 49)[0].shape == (3, 49)


def test_an_empty_batch_gives_empty_masks():
    bitmap, mask = group_mask(SEED, torch.empty(0, dtype=torch.int64), (32, 48), 0.5)
    assert (bitmap.shape, mask.shape) == ((0, 32, 2), (0, 32, 48))


def test_registration():
    rule = [int(part) for part in rule_of((8, 12), 2, 0.3, "corner")]
    for implementation in ("torch", "native"):
        arguments = (SEED, IDS, torch.full((3,), 0.5), rule, implementation)
        torch.library.opcheck(torch.ops.vitkiln.group_mask.default, arguments)


def test_compiles_without_a_break():
    compiled = torch.compile(
        lambda seed, ids: group_mask(seed, ids, (16, 24), 0.5, 4), backend="aot_eager", fullgraph=True
    )
    assert torch.equal(compiled(SEED, IDS)[1], group_mask(SEED, IDS, (16, 24), 0.5, 4)[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", (0, 8)),
        ("size", (8,)),
        ("size", (8, 20_000)),
        ("align", 0),
        ("align", 3),
        ("max_block", 0.0),
        ("max_block", 1.5),
        ("anchor", "middle"),
        ("target", 1.5),
        ("target", float("nan")),
        ("target", torch.zeros(2)),
        ("target", torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_bad_arguments_are_named(name, value):
    right = {"size": (8, 8), "target": 0.5, "align": 2, "max_block": 0.3, "anchor": "corner"}
    with pytest.raises(ValueError, match=f"^{name}: "):
        group_mask(SEED, IDS, **{**right, name: value})


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("size", "align", "anchor"), [(SIZE, 1, "corner"), (SIZE, 16, "centered"), ((64, 96), 32, "corner")]
)
@pytest.mark.parametrize("implementation", ["triton", "torch"])
def test_a_gpu_draws_the_same(size, align, anchor, implementation):
    target = torch.tensor([0.3, 0.75, 1.0])
    with use(implementation, "groups"):
        found = group_mask(SEED.cuda(), IDS.cuda(), size, target.cuda(), align, anchor=anchor)
    expected = group_mask(SEED, IDS, size, target, align, anchor=anchor)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
