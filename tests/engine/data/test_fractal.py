"""Pictures of formulas are functions of (seed, index), labelled by their formula."""

import pickle

import numpy as np
import pytest

from vitkiln.engine.data.fractal import Fractals, flipped, patches
from vitkiln.engine.data.ifs import CANVAS, FILL, cells, fill, finite, orbits, search, weight_rows
from vitkiln.engine.data.source import Source, open_source
from vitkiln.engine.settings import Data

SMALL = Data(source="fractal", categories=4, instances=30, fractal_size=64, fractal_points=2000)


def opened(seed: int = 0, split: str = "train", settings: Data = SMALL) -> Source:
    source = open_source(settings, seed, split)  # type: ignore[arg-type]
    assert source is not None
    return source


def array(source: Source, index: int) -> np.ndarray:
    return np.asarray(source.image(index))


def test_a_picture_is_a_function_of_seed_and_index() -> None:
    first, second = opened(), pickle.loads(pickle.dumps(opened()))
    backwards = {index: array(second, index) for index in (95, 31, 7)}
    assert all((array(first, index) == backwards[index]).all() for index in (7, 31, 95))
    assert (array(opened(seed=1), 7) != array(first, 7)).any()


def test_there_are_instances_of_every_category_and_no_two_alike() -> None:
    source = opened()
    assert len(source) == 120
    assert source.classes == ("00000", "00001", "00002", "00003")
    assert [source.label(index) for index in (0, 29, 30, 119)] == [0, 0, 1, 3]
    assert source.name(33) == "fractal 1/3"
    assert len({array(source, index).tobytes() for index in range(120)}) == 120


def test_val_holds_a_quarter_as_many_other_instances_of_the_same_formulas() -> None:
    train, val = opened(), opened(split="val")
    assert len(val) == 4 * 7
    assert (val.classes, val.name(8), val.label(8)) == (train.classes, "fractal 1/31", 1)
    seen = {array(train, index).tobytes() for index in range(len(train))}
    assert all(array(val, index).tobytes() not in seen for index in range(len(val)))


def test_pictures_are_grey_on_black_and_never_blank() -> None:
    source = opened()
    for index in range(0, 120, 7):
        image = source.image(index)
        pixels = np.asarray(image)
        assert (image.mode, image.size) == ("RGB", (64, 64))
        assert set(np.unique(pixels)) == {0, 127}
        assert (pixels > 0).mean() > 0.01


def test_pictures_of_one_formula_resemble_each_other_more_than_those_of_others() -> None:
    source = opened(settings=SMALL.model_copy(update={"fractal_points": 8000}))

    def shape(index: int) -> np.ndarray:
        return np.asarray(source.image(index).convert("L").resize((8, 8))).ravel() - 20.0

    rows = (3, 6, 8, 10, 12)  # weights close to the formula's own
    shapes = np.array([[shape(30 * category + row) for row in rows] for category in range(4)])
    middle = shapes.mean(1)
    within = np.linalg.norm(shapes - middle[:, None], axis=-1).mean()
    across = np.mean(
        [np.linalg.norm(shapes[a] - middle[b], axis=-1).mean() for a in range(4) for b in range(4) if a != b]
    )
    assert within < 0.8 * across


def test_the_weights_are_the_published_ones() -> None:
    weights = weight_rows()
    changed = (weights != 1).sum(1)
    assert weights.shape == (25, 6)
    assert sorted(changed) == [0] + [1] * 24
    assert all(sorted(set(column) - {1.0}) == [0.2, 0.6, 1.4, 1.8] for column in weights.T)


@pytest.mark.parametrize("category", range(3))
def test_an_accepted_formula_stays_finite_and_fills_the_canvas(category: int) -> None:
    system = search(0, category)
    assert 2 <= len(system.maps) <= 7
    assert np.abs(system.maps).max() <= 1
    points = orbits(system.maps, system.choices(np.random.default_rng(5), 2048, 8))
    assert finite(points)
    assert fill(points) > 0.8 * FILL


def test_orbits_apply_the_chosen_maps_one_after_the_other() -> None:
    numbers = np.random.default_rng(0)
    maps, chosen = numbers.uniform(-0.6, 0.6, (3, 6)), numbers.integers(0, 3, (30, 2))
    points = orbits(maps, chosen)
    for chain in range(2):
        x = y = 0.0
        for step, (a, b, c, d, e, f) in enumerate(maps[chosen[:, chain]]):
            x, y = a * x + b * y + e, c * x + d * y + f
            if step >= 24:
                assert points[:, step - 24, chain] == pytest.approx((x, y), rel=1e-12)


def test_several_systems_run_beside_each_other_as_they_do_alone() -> None:
    system, weights = search(0, 0), weight_rows()[:, None]
    chosen = system.choices(np.random.default_rng(0), 8, 3)
    together = orbits(system.maps * weights, chosen)
    assert (together[:, :, 7] == orbits(system.maps * weights[7], chosen)).all()


def test_full_patches_are_the_points_spread_over_three_by_three() -> None:
    places = np.array([[10, 20], [12, 30]])
    canvas = patches(places, np.array([511, 511]), 64)[::-1]
    expected = np.zeros((64, 64), np.uint8)
    expected[13:16, 11:14] = expected[31:34, 21:24] = 127
    assert (canvas == expected).all()


def test_the_highest_bit_is_the_first_corner_and_a_later_patch_hides_an_earlier() -> None:
    canvas = patches(np.array([[10, 10], [10, 10]]), np.array([0b111111111, 0b100000001]), 32)[::-1]
    assert canvas[11:14, 11:14].tolist() == [[127, 0, 0], [0, 0, 0], [0, 0, 127]]


def test_half_of_the_bits_are_lit() -> None:
    masks = np.random.default_rng(0).integers(1, 512, 3000)
    places = np.stack([np.arange(3000) % 50 * 4, np.arange(3000) // 50 * 4])
    assert (patches(places, masks, 256) > 0).sum() / (3000 * 9) == pytest.approx(256 / 511, abs=0.01)


def test_the_four_flips_are_different_and_undo_themselves() -> None:
    picture = np.arange(9, dtype=np.uint8).reshape(3, 3)
    flips = [flipped(picture, flip) for flip in range(4)]
    assert len({flip.tobytes() for flip in flips}) == 4
    assert all((flipped(flip, number) == picture).all() for number, flip in enumerate(flips))
    assert (flips[3] == np.rot90(picture, 2)).all()


def test_points_stay_within_the_border() -> None:
    places = cells(np.random.default_rng(0).normal(size=(2, 1000)), CANVAS, 6)
    assert places.min() == 6
    assert places.max() == CANVAS - 7


def test_a_category_is_the_same_whichever_was_asked_for_first() -> None:
    one, other = Fractals(SMALL, 0), Fractals(SMALL, 0)
    one.formula(0)
    assert (one.formula(2)[0].maps == other.formula(2)[0].maps).all()
