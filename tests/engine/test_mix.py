"""Mixing and erasing follow the published distributions, lose no mass, and do not depend on who holds an image."""

import math

import pytest
import torch
from torch.distributions import Beta

from vitkiln.engine.mix import KNOTS, Mixing, beta, beta_quantiles, erased, normal

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])


def images(count=8, side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def seed(step, run=3):
    return torch.tensor([run, step])


def mixing(mixup=0.8, cutmix=1.0, probability=1.0, switch=0.5, smoothing=0.1):
    return Mixing(5, mixup, cutmix, probability, switch, smoothing)


LABELS = torch.arange(8) % 5


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 3.0, 20.0])
def test_the_moments_are_those_of_beta(alpha):
    drawn = beta((torch.arange(1 << 16) + 0.5) / (1 << 16), beta_quantiles(alpha), alpha).double()
    true = Beta(torch.tensor(alpha, dtype=torch.float64), torch.tensor(alpha, dtype=torch.float64))
    assert drawn.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert drawn.var(correction=0).item() == pytest.approx(true.variance.item(), rel=1e-3)
    assert (drawn - 0.5).pow(4).mean().item() == pytest.approx(fourth_moment(alpha), rel=2e-3)


def fourth_moment(alpha):
    """About the middle: (x - 1/2)^4 of Beta(a, a) is 3 / (16 (2a + 1)(2a + 3))."""
    return 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))


QUANTILES = {  # at 0.001, 0.05, 0.25, 0.4, 0.5, 0.9, 0.999: the inverse of the regularised incomplete beta function
    0.2: [2.478056e-14, 7.743886e-06, 0.02381472, 0.2163419, 0.5, 0.9997522, 1.0],
    0.8: [0.0002265013, 0.03001447, 0.2192948, 0.3854443, 0.5, 0.9289496, 0.9997735],
    3.0: [0.0475519, 0.1892554, 0.3594362, 0.4462541, 0.5, 0.7533635, 0.9524481],
}


@pytest.mark.parametrize("alpha", QUANTILES)
def test_the_quantiles_are_those_of_beta(alpha):
    uniform = torch.tensor([0.001, 0.05, 0.25, 0.4, 0.5, 0.9, 0.999])
    drawn = beta(uniform, beta_quantiles(alpha), alpha)
    torch.testing.assert_close(drawn, torch.tensor(QUANTILES[alpha]), atol=2e-6, rtol=2e-5)


def test_the_arcsine_law_is_met_in_closed_form():
    uniform = torch.linspace(0, 1, 101)
    expected = torch.sin(math.pi / 2 * uniform.double()).square().float()
    torch.testing.assert_close(beta(uniform, beta_quantiles(0.5), 0.5), expected, atol=1e-6, rtol=1e-5)


def test_beta_of_one_is_uniform_to_the_last_knot():
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert len(beta_quantiles(1.0)) == KNOTS + 1
    torch.testing.assert_close(beta(uniform, beta_quantiles(1.0), 1.0), uniform, atol=1e-6, rtol=0)


@pytest.mark.parametrize("step", range(6))
def test_the_mass_of_a_target_is_one(step):
    _, targets = mixing()(images(), LABELS, seed(step))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_without_mixing_a_target_is_smoothed_and_the_pixels_stay_whole_numbers():
    given = images()
    same, targets = mixing(0.0, 0.0)(given, LABELS, seed(0))
    assert same is given
    assert targets[1].tolist() == pytest.approx([0.02, 0.92, 0.02, 0.02, 0.02])


@pytest.mark.parametrize("step", range(4))
def test_mixup_weighs_pixels_and_labels_alike(step):
    given = images()
    mixed, targets = mixing(cutmix=0.0, smoothing=0.0)(given, LABELS, seed(step))
    share = targets[0, 0]  # of label 0, whose partner has label 1
    other = given.float()[[1, 0, 3, 2, 5, 4, 7, 6]] / 255
    torch.testing.assert_close(mixed, share * given.float() / 255 + (1 - share) * other)


@pytest.mark.parametrize("step", range(8))
def test_cutmix_gives_a_label_the_share_of_the_pixels_that_are_its_own(step):
    dark = torch.zeros(8, 16, 24, 3, dtype=torch.uint8)
    dark[::2] = 255  # every second image is white
    mixed, targets = mixing(mixup=0.0, smoothing=0.0)(dark, LABELS, seed(step))
    assert set(mixed.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(mixed[0].mean(), targets[0, 0])
    torch.testing.assert_close(mixed[1].mean(), targets[1, 0])
    rows, columns = (mixed[0, :, :, 0] == 0).nonzero().unbind(1)
    if len(rows):  # what is cut is one box
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == height * width


def test_boxes_have_the_published_sizes_and_lie_anywhere():
    mixer = mixing(mixup=0.0, smoothing=0.0)
    shares = torch.stack([mixer.drawn(seed(step), 32, 32)[1] for step in range(1500)])
    sizes, places = torch.rand(20000, generator=torch.Generator().manual_seed(1)), torch.arange(32)
    length = (32 * (1 - sizes).sqrt()).floor()
    expected = torch.stack([clipped(length, int(place)) for place in places]).mean(0)  # mean over centres, an axis
    assert shares.mean().item() == pytest.approx(1 - expected.square().mean().item(), abs=0.02)


def clipped(length, place):
    """The share of an axis of 32 that a box around a place covers."""
    low, high = place - (length / 2).floor(), place + ((length + 1) / 2).floor()
    return (high.clamp(max=32) - low.clamp(min=0)) / 32


def test_one_step_mixes_in_one_proportion_and_the_next_in_another():
    shares = [mixing(cutmix=0.0, smoothing=0.0)(images(), LABELS, seed(step))[1].amax(1) for step in range(3)]
    assert all(torch.allclose(share, share[0]) for share in shares)
    assert len({round(share[0].item(), 5) for share in shares}) == 3


def test_mixup_follows_beta_and_switch_and_probability_are_kept():
    mixer = mixing(probability=0.75, switch=0.25, smoothing=0.0)
    drawn = [mixer.drawn(seed(step), 16, 16) for step in range(1500)]
    cut = [share < 1 and len(kept.unique()) == 2 for kept, share in drawn]
    clean = [bool(share == 1) for _, share in drawn]
    blend = torch.stack([share for (_, share), c, n in zip(drawn, cut, clean, strict=True) if not c and not n])
    assert sum(cut) / 1500 == pytest.approx(0.75 * 0.25, abs=0.03)
    assert sum(clean) / 1500 == pytest.approx(0.25, abs=0.03)
    assert blend.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.1)


@pytest.mark.parametrize("parts", [2, 4])
def test_ranks_and_micro_batches_mix_as_the_whole_batch(parts):
    given = images(16)
    labels, ids = torch.arange(16) % 5, torch.arange(16)

    def prepared(rows):
        part = erased(given[rows], seed(7), ids[rows], 0.5, MEAN, STD)
        return mixing()(part, labels[rows], seed(7))

    whole, shares = prepared(slice(None)), [prepared(rows) for rows in torch.arange(16).chunk(parts)]
    for index in range(2):
        assert torch.equal(whole[index], torch.cat([share[index] for share in shares]))


def test_the_last_of_an_odd_batch_is_its_own_partner():
    given = images(5)
    mixed, targets = mixing(cutmix=0.0, smoothing=0.0)(given, torch.arange(5), seed(1))
    torch.testing.assert_close(mixed[4], given[4].float() / 255)
    assert targets[4].tolist() == [0, 0, 0, 0, 1]


def changed(before, after):
    return (before.float() / 255 != after).any(3)  # [B, H, W]


def test_erasing_happens_with_its_probability_to_a_rectangle_of_published_area_and_shape():
    flat = torch.zeros(3000, 40, 40, 3, dtype=torch.uint8)
    where = changed(flat, erased(flat, seed(0), torch.arange(3000), 0.25, MEAN, STD))
    hit = where.flatten(1).any(1)
    assert hit.float().mean().item() == pytest.approx(0.25, abs=0.025)
    where = where[hit]
    tall, wide = where.any(2).sum(1), where.any(1).sum(1)
    assert torch.equal(where.flatten(1).sum(1), tall * wide)  # each a full rectangle
    assert ((tall < 40) & (wide < 40)).all()
    area, aspect = (tall * wide).float() / 1600, (tall / wide).log()
    assert 0.015 < area.min() < 0.03
    assert 0.31 < area.max() < 0.35
    assert area.mean().item() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    assert aspect.mean().item() == pytest.approx(0, abs=0.1)
    assert aspect.abs().max() < math.log(1 / 0.3) + 0.25  # of sides that are rounded


def test_erased_places_reach_every_edge():
    flat = torch.zeros(2000, 24, 24, 3, dtype=torch.uint8)
    often = changed(flat, erased(flat, seed(0), torch.arange(2000), 1.0, MEAN, STD)).float().mean(0)
    assert often[0].mean() > 0.02
    torch.testing.assert_close(often, often.flip(0), atol=0.06, rtol=0)
    torch.testing.assert_close(often, often.flip(1), atol=0.06, rtol=0)


def test_the_noise_is_normal_once_it_is_normalised():
    flat = torch.zeros(400, 32, 32, 3, dtype=torch.uint8)
    after = erased(flat, seed(0), torch.arange(400), 1.0, MEAN, STD)
    noise = ((after - MEAN) / STD)[changed(flat, after)]
    assert noise.mean(0).tolist() == pytest.approx([0, 0, 0], abs=0.03)
    assert noise.std(0).tolist() == pytest.approx([1, 1, 1], abs=0.03)
    share = [(noise.abs() < bound).float().mean().item() for bound in (0.6745, 1.96)]
    assert share == pytest.approx([0.5, 0.95], abs=0.01)


def test_the_rest_of_an_erased_image_is_untouched():
    given = images(64)
    after = erased(given, seed(0), torch.arange(64), 1.0, MEAN, STD)
    outside = ~changed(given, after)
    assert 0.5 < outside.float().mean() < 0.95
    assert torch.equal(after[outside], (given.float() / 255)[outside])


def test_erasing_is_a_function_of_seed_and_sample():
    given = images(8)
    first = erased(given, seed(0), torch.arange(8), 1.0, MEAN, STD)
    assert torch.equal(first, erased(given, seed(0), torch.arange(8), 1.0, MEAN, STD))
    for other in (seed(1), seed(0, run=4)):
        assert not torch.equal(first, erased(given, other, torch.arange(8), 1.0, MEAN, STD))
    assert not torch.equal(first, erased(given, seed(0), torch.arange(8) + 8, 1.0, MEAN, STD))


def test_an_image_too_small_for_any_rectangle_stays_as_it_is():
    given = images(8, side=1)
    assert torch.equal(erased(given, seed(0), torch.arange(8), 1.0, MEAN, STD), given.float() / 255)


def test_normal_quantiles_are_finite_at_both_ends():
    ends = normal(torch.tensor([0.0, 0.5, 1 - 2.0**-24]))
    assert ends[0].item() == pytest.approx(-5.4, abs=0.3)
    assert ends[1].item() == pytest.approx(0, abs=1e-6)
    assert ends[2].item() == pytest.approx(-ends[0].item(), abs=1e-3)
