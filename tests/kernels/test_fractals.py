import csv
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkiln.kernels import use
from vitkiln.kernels._shared.native import native
from vitkiln.kernels.fractals import (
    STYLES,
    draw_fractals,
    fill_rate,
    fractal_support,
    render_fractals,
    search_fractals,
    search_state,
    stacked,
)
from vitkiln.kernels.fractals.reference import palette

LEAST = 0.2
CATEGORIES = Path(__file__).parents[2] / "engine" / "data" / "categories.csv"
compiled = pytest.mark.skipif(not native("fractals"), reason="nothing to compare")


def shipped():
    """FractalDB's own first categories."""
    found = {}
    for category, *row in list(csv.reader(CATEGORIES.open()))[1:]:
        found.setdefault(int(category), []).append([float(text) for text in row])
    return [np.array(found[category]) for category in sorted(found)]


FIRST = shipped()[:3]


def formulas(count=3):
    """The first categories, one of them changed so that it diverges."""
    maps, probabilities = stacked([(table[:, :6], table[:, 6]) for table in FIRST[:count]])
    weights = torch.ones(count, 6, dtype=torch.float64)
    weights[-1] = 3.0
    return maps, probabilities, weights


def accepted(wanted, count=64):
    """Formulas that fill a picture, and how many were tried for them."""
    state, found, tried = search_state(1), [], 0
    while True:
        batch = search_fractals(state, count)
        for maps, chances, k, lit in zip(*batch[:4], strict=True):
            tried += 1
            if lit / 512**2 >= LEAST:
                found.append((torch.cat([maps, chances[:, None]], 1)[:k], lit / 512**2))
            if len(found) == wanted:
                return found, tried
        state = batch.state


@compiled
def test_a_search_with_seed_1_finds_fractaldbs_own_categories():
    found, _ = accepted(20)
    assert [len(table) for table, _ in found] == [len(table) for table in shipped()[:20]]
    for (table, _), expected in zip(found, shipped(), strict=False):
        torch.testing.assert_close(table, torch.from_numpy(expected), rtol=0, atol=1e-15)
    first = found[0][0]
    assert len(first) == 5
    expected = [0.1724223243171234543, -0.7311756060787280, 0.1414134307013419]
    assert first[0, [0, 1, 6]].tolist() == pytest.approx(expected, rel=0, abs=1e-15)


@compiled
@pytest.mark.slow
def test_the_thousand_categories_are_those_that_were_published():
    found, tried = accepted(1000)
    counts = [len(table) for table, _ in found]
    fill = [float(rate) for _, rate in found]
    assert tried == 42_655
    assert [counts.count(k) for k in range(2, 8)] == [231, 294, 218, 146, 77, 34]
    assert (round(min(fill), 5), round(sum(fill) / 1000, 4), round(max(fill), 4)) == (0.2, 0.2214, 0.2811)


@compiled
def test_a_candidate_is_the_same_in_numpy():
    ours = search_fractals(search_state(5), 4, 64, 2000)
    with use("reference", "fractals"):
        theirs = search_fractals(search_state(5), 4, 64, 2000)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_search_that_goes_on_finds_the_same():
    whole = search_fractals(search_state(3), 5, 32, 500)
    begun = search_fractals(search_state(3), 2, 32, 500)
    rest = search_fractals(begun.state, 3, 32, 500)
    assert torch.equal(torch.cat([begun.maps, rest.maps]), whole.maps)
    assert torch.equal(torch.cat([begun.lit, rest.lit]), whole.lit)
    assert torch.equal(rest.state, whole.state)


@compiled
def test_threads_do_not_change_a_search():
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(search_fractals(search_state(9), 12, 64, 3000))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@compiled
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("size", "points"), [(37, 3000), (64, 130), (130, 2), (16, 1001)])
def test_native_operators_equal_the_reference(style, size, points):
    seeds = torch.tensor([0, -7, 1 << 62])
    results = []
    for implementation in ("reference", "native"):
        found = []
        with use("reference", "fractals") if implementation == "reference" else nullcontext():
            support = fractal_support(*formulas(), size, points, style)
            found += [*support, draw_fractals(support.bits, seeds, size, style)]
            found.append(render_fractals(*formulas(), seeds, size, points, style))
        results.append(found)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_path_that_diverges_is_told_and_drawn_up_to_100_points_before():
    maps, probabilities, weights = formulas()
    found = fractal_support(maps, probabilities, weights, 64, 5000)
    assert found.finite.tolist() == [True, True, False]
    assert found.lit[2] < found.lit[:2].min()


def test_fill_rate_is_the_share_of_pixels_with_a_point():
    rate, finite = fill_rate(*formulas(), size=64, points=4000)
    image = render_fractals(*formulas(), torch.zeros(3, dtype=torch.int64), 64, 4000, "point_gray")
    torch.testing.assert_close(rate, (image > 0).double().mean((1, 2)), rtol=0, atol=1e-15)
    assert finite.tolist() == [True, True, False]


@pytest.mark.parametrize("style", ["point_gray", "point_color"])
def test_points_drawn_from_their_bits_are_the_points_rendered(style):
    seeds = torch.arange(3)
    bits = fractal_support(*formulas(), 48, 2000, style).bits
    assert torch.equal(draw_fractals(bits, seeds, 48, style), render_fractals(*formulas(), seeds, 48, 2000, style))


def test_patches_without_gaps_are_points_widened_to_the_right_and_below():
    """Below before the picture is turned upside down."""
    points = render_fractals(*formulas(), torch.zeros(3, dtype=torch.int64), 48, 2000, "point_gray") > 0
    bits = fractal_support(*formulas(), 48, 2000, "patch_gray").bits
    covered = torch.from_numpy(np.unpackbits(bits.numpy(), 1, 48 * 48, "little").reshape(3, 48, 48)).bool()
    wide = torch.zeros_like(points)
    for right in (1, 2, 3):
        for up in (1, 2, 3):
            wide[:, :-up, right:] |= points[:, up:, :-right]
    assert torch.equal(covered, wide)


def test_either_mode_lights_a_covered_pixel_as_often():
    """256/511 of the covered pixels, within five standard deviations, and no other pixel."""
    maps, probabilities, weights = (tensor[:1] for tensor in formulas())
    weights = torch.ones_like(weights)
    bits = fractal_support(maps, probabilities, weights, 96, 20_000).bits
    covered = torch.from_numpy(np.unpackbits(bits.numpy(), 1, 96 * 96, "little").reshape(96, 96)).bool()
    for images in (
        draw_fractals(bits.expand(40, -1), torch.arange(40), 96),
        torch.cat([render_fractals(maps, probabilities, weights, torch.tensor([k]), 96, 20_000) for k in range(40)])
        if native("fractals")
        else render_fractals(maps, probabilities, weights, torch.tensor([0]), 96, 20_000),
    ):
        lit = images[:, covered] > 0
        assert not images[:, ~covered].any()
        assert abs(lit.double().mean() - 256 / 511) < 5 * 0.5 / math.sqrt(lit.numel())
        assert set(images.unique().tolist()) == {0, 127}


def test_seeds_decide_the_patches():
    arguments = formulas()
    first, again, other = (render_fractals(*arguments, torch.full((3,), seed), 48, 1000) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], other[0])


def test_a_zero_map_that_fills_up_changes_nothing():
    maps, probabilities, weights = (tensor[1:2] for tensor in formulas())
    wide = torch.cat([maps, torch.zeros(1, 4, 6, dtype=torch.float64)], 1)
    chances = torch.cat([probabilities, torch.zeros(1, 4, dtype=torch.float64)], 1)
    narrow = fractal_support(maps, probabilities, weights, 64, 2000)
    assert torch.equal(narrow.bits, fractal_support(wide, chances, weights, 64, 2000).bits)


def test_colours_are_128_hues_of_one_brightness():
    colours = palette()
    assert len(colours.unique(dim=0)) == 129
    assert set(colours[1:].max(1).values.tolist()) == {191}
    assert set(colours[1:].min(1).values.tolist()) == {47}


def bad(**changes):
    """Arguments of render_fractals, one of them wrong."""
    maps, probabilities, weights = formulas()
    right = {"maps": maps, "probabilities": probabilities, "weights": weights, "seeds": torch.arange(3)}
    return {**right, "size": 48, "points": 100, **changes}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maps", torch.full((3, 5, 6), math.nan, dtype=torch.float64)),
        ("maps", torch.zeros(3, 5, 6)),
        ("maps", torch.zeros(0, 5, 6, dtype=torch.float64)),
        ("weights", torch.full((3, 6), math.inf, dtype=torch.float64)),
        ("weights", torch.ones(2, 6, dtype=torch.float64)),
        ("seeds", torch.zeros(3)),
        ("seeds", torch.arange(2)),
        ("size", 0),
        ("points", 0),
        ("style", "patch"),
    ],
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: "):
        render_fractals(**bad(**{name: value}))


def wrong_sum(probabilities):
    return probabilities * 1.1


def negative(probabilities):
    changed = probabilities.clone()
    changed[0, 0] += 1.0
    changed[0, 1] -= 1.0
    return changed


def not_numbers(probabilities):
    return probabilities * math.nan


@pytest.mark.parametrize("change", [wrong_sum, negative, not_numbers])
def test_probabilities_must_be_some(change):
    with pytest.raises(ValueError, match=r"^probabilities: "):
        render_fractals(**bad(probabilities=change(formulas()[1])))


def test_bits_must_fit_size_and_style():
    bits = fractal_support(*formulas(), 48, 100, "patch_gray").bits
    with pytest.raises(ValueError, match=r"^bits: "):
        draw_fractals(bits, torch.arange(3), 48, "patch_color")


@pytest.mark.parametrize("state", [torch.zeros(624, dtype=torch.int64), torch.full((625,), -1)])
def test_a_state_must_be_a_generators(state):
    with pytest.raises(ValueError, match=r"^state: "):
        search_fractals(state, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("size", "points"), [(37, 3000), (362, 20_000)])
def test_a_gpu_draws_the_same(style, size, points):
    if not native("fractals", "cuda"):
        pytest.skip("the CUDA operators are not built")
    here, seeds = formulas(), torch.tensor([0, -7, 1 << 62])
    there = [tensor.cuda() for tensor in here]
    ours, theirs = (fractal_support(*place, size, points, style) for place in (there, here))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, theirs, strict=True))
    drawn = draw_fractals(ours.bits, seeds.cuda(), size, style)
    assert torch.equal(drawn.cpu(), draw_fractals(theirs.bits, seeds, size, style))
    rendered = render_fractals(*there, seeds.cuda(), size, points, style)
    assert torch.equal(rendered.cpu(), render_fractals(*here, seeds, size, points, style))
