"""Crops and colours are drawn with the published distributions, from counted random numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitkiln.engine.data.draw import colours, crop_box, flips, padded_corner, uniforms
from vitkiln.engine.vocabulary import View
from vitkiln.kernels.augment_views import columns

SIDES = st.integers(1, 5000)


@given(width=SIDES, height=SIDES, sample=st.integers(0, 2**40))
def test_a_crop_lies_within_the_image(width: int, height: int, sample: int) -> None:
    left, top, right, bottom = crop_box(uniforms(0, 0, 0, sample), width, height, View())
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_areas_are_uniform_and_aspects_log_uniform() -> None:
    boxes = [crop_box(uniforms(0, 0, 0, sample), 1000, 1000, View(scale=(0.1, 0.5))) for sample in range(4000)]
    sides = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    areas, aspects = sides.prod(1) / 1e6, np.log(sides[:, 0] / sides[:, 1])
    assert np.quantile(areas, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.012)
    limit = math.log(4 / 3)
    assert np.quantile(aspects, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(np.linspace(-limit, limit, 5), abs=0.02)


@pytest.mark.parametrize(
    ("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 1), (0, 0, 1, 1))]
)
def test_where_no_try_fits_the_largest_central_box_is_taken(size: tuple[int, int], box: tuple[int, ...]) -> None:
    assert crop_box(uniforms(0, 0, 0, 0), *size, View(scale=(1.0, 1.0))) == box


def test_colours_follow_the_probabilities_and_ranges_of_the_view() -> None:
    view = View(blur=0.1, solarize=0.2)
    rows = np.array([colours(uniforms(0, 0, 0, sample), view) for sample in range(4000)])
    jittered = rows[rows[:, columns.JITTER] == 1]
    shares = [
        (rows[:, columns.JITTER] == 1).mean(),
        (rows[:, columns.GRAY] == 1).mean(),
        (rows[:, columns.SIGMA] > 0).mean(),
        (rows[:, columns.THRESHOLD] == 128).mean(),
        (rows[:, columns.FLIP] == 1).mean(),
    ]
    assert shares == pytest.approx([0.8, 0.2, 0.1, 0.2, 0.5], abs=0.025)
    assert jittered[:, columns.FACTORS].min(0) == pytest.approx([0.6, 0.6, 0.8], abs=0.01)
    assert jittered[:, columns.FACTORS].max(0) == pytest.approx([1.4, 1.4, 1.2], abs=0.01)
    assert np.quantile(jittered[:, columns.HUE], [0, 0.5, 1]) == pytest.approx([-0.1, 0, 0.1], abs=0.01)
    sigmas = rows[:, columns.SIGMA][rows[:, columns.SIGMA] > 0]
    assert 0.1 <= sigmas.min() < 0.2
    assert 1.9 < sigmas.max() <= 2.0


def test_all_orders_of_the_jitter_are_as_frequent() -> None:
    view = View(jitter_probability=1.0)
    rows = [tuple(colours(uniforms(0, 0, 0, sample), view)[columns.ORDER]) for sample in range(4800)]
    counts = [rows.count(order) for order in set(rows)]
    assert len(counts) == 24
    assert min(counts) > 140
    assert max(counts) < 265


def test_numbers_differ_by_seed_epoch_view_and_sample() -> None:
    draws = [uniforms(*place)[0] for place in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]]
    assert len(set(draws)) == 5


def test_without_retry_a_crop_is_cut_to_the_sides_of_the_image() -> None:
    view = View(scale=(0.9, 1.0), retry=False)
    boxes = np.array([crop_box(uniforms(0, 0, 0, sample), 400, 100, view) for sample in range(500)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides[:, 1] == 100).all()
    assert sides[:, 0].min() < 200 < sides[:, 0].max() <= 240  # sqrt(area * aspect) and no try is thrown away
    assert (crop_box([0.0] * 56, 1, 1, view)) == (0, 0, 1, 1)


def test_where_the_first_try_fits_retry_changes_nothing() -> None:
    for sample in range(50):
        numbers = uniforms(0, 0, 0, sample)
        once = crop_box(numbers, 500, 500, View(scale=(0.1, 0.5), retry=False))
        assert once == crop_box(numbers, 500, 500, View(scale=(0.1, 0.5)))


def test_a_shifted_square_is_anywhere_within_its_padding() -> None:
    view = View(size=32, padding=4)
    corners = [padded_corner(uniforms(0, 0, 0, sample), 32, 32, view) for sample in range(4000)]
    counts = np.unique(corners, axis=0, return_counts=True)[1]
    assert len(counts) == 81
    assert min(min(corner) for corner in corners) == -4
    assert max(max(corner) for corner in corners) == 4
    assert counts.min() > 20


def test_both_flips_have_their_probability_and_are_independent() -> None:
    drawn = np.array([flips(uniforms(0, 0, 0, sample), View(flip=0.5, vertical_flip=0.25)) for sample in range(4000)])
    assert drawn.mean(0) == pytest.approx([0.5, 0.25], abs=0.025)
    assert drawn.all(1).mean() == pytest.approx(0.125, abs=0.02)


def test_a_crop_is_mirrored_once_with_randaugment_and_without() -> None:
    numbers = uniforms(0, 0, 0, 0)
    assert colours(numbers, View(flip=1.0))[columns.FLIP] == 1
    assert colours(numbers, View(flip=1.0, randaugment="rand-m9-inc1"))[columns.FLIP] == 0


def test_more_numbers_leave_the_first_as_they_are() -> None:
    assert uniforms(1, 2, 3, 4, more=8)[:-8] == uniforms(1, 2, 3, 4)
