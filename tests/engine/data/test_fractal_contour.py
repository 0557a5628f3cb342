"""Contours follow the published formula and ranges."""

import math

import numpy as np
import pytest

from vitkiln.engine.data.contour import SPAN, Contour, atom, gradient_noise, outlines, picture, rcdb


def numbers(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_categories_of_rcdb_lie_in_the_published_ranges() -> None:
    found = [rcdb(numbers(seed)) for seed in range(2000)]
    vertices = np.array([c.vertices for c in found])
    rings = np.array([c.rings for c in found])
    assert (vertices.min(), vertices.max()) == (3, 200)
    assert (rings.min(), rings.max()) == (1, 200)
    assert all(0 <= c.noise <= 4 and 0 <= c.width <= 0.1 and c.waves is None for c in found)
    below = (1 - math.exp(-0.97)) / (math.exp(-0.03) - math.exp(-2.01))  # of an exponential cut to [3, 201)
    assert (vertices < 100).mean() == pytest.approx(below * math.exp(-0.03), abs=0.03)


def test_categories_of_atoms_lie_in_the_published_ranges() -> None:
    found = [atom(numbers(seed)) for seed in range(2000)]
    vertices = [c.vertices for c in found]
    assert 200 <= min(vertices) < 205
    assert 995 < max(vertices) <= 1000
    assert {c.radius for c in found} == set(range(10, 61))
    assert all(1 <= side <= 2 for c in found for side in c.oval)
    waves = [c.waves for c in found]
    assert {first for first, _ in waves} == set(range(21))  # type: ignore[misc]
    assert all(first != second or first == 0 for first, second in waves)  # type: ignore[misc]


def test_without_noise_a_ring_is_the_one_before_moved_by_width_and_waves() -> None:
    contour = Contour(8, 3, 0.0, 0.05, (1, 2))
    radii = np.array([10.0, 20.0])
    rings = outlines(contour, radii, numbers())
    for vertex in range(8):
        angle = 2 * math.pi * vertex / 8
        grown = 0.5 * math.sin(angle) + 0.5 * math.sin(2 * angle) + 0.05
        for ring in range(3):
            x, y = rings[ring, :, vertex]
            assert x == pytest.approx((10 + (ring + 1) * grown) * math.cos(angle))
            assert y == pytest.approx((20 + (ring + 1) * grown) * math.sin(angle))


def test_noise_of_rcdb_weighs_twice_as_much_as_that_of_atoms() -> None:
    moved = {}
    for waves in (None, (0, 0)):
        rings = outlines(Contour(500, 1, 1.0, 0.0, waves), np.zeros(2), numbers())
        angles = 2 * math.pi * np.arange(500) / 500
        moved[waves] = 1 - rings[0, 0, 1:100] / np.cos(angles[1:100])  # s * noise
    assert moved[None] == pytest.approx(2 * moved[(0, 0)])


def test_noise_is_nought_at_whole_places_and_never_beyond_one() -> None:
    places = numbers().uniform(0, SPAN, 100_000)
    found = gradient_noise(places)
    assert np.abs(found).max() <= 1
    assert abs(found.mean()) < 0.01
    assert (gradient_noise(np.arange(10.0)) == 0).all()
    near = gradient_noise(np.array([5 - 1e-9, 5 + 1e-9]))
    assert near[0] == pytest.approx(near[1], abs=1e-7)


@pytest.mark.parametrize(("make", "paper"), [(rcdb, 255), (atom, 0)])
def test_the_paper_is_the_published_one(make, paper: int) -> None:
    drawn = [picture(make(numbers(seed)), numbers(seed), 64) for seed in range(6)]
    values, counts = np.unique(np.stack([image[[0, 0, -1, -1], [0, -1, 0, -1]] for image in drawn]), return_counts=True)
    assert values[counts.argmax()] == paper
    assert all(len(np.unique(image)) > 1 for image in drawn)
    assert {image.shape for image in drawn} == {(64, 64)}


def test_another_size_is_the_same_drawing() -> None:
    contour = Contour(300, 60, 1.0, 0.1, (3, 5), 40, (1.2, 1.5))
    small, large = (picture(contour, numbers(4), size) > 0 for size in (64, 256))
    coarse = large.reshape(64, 4, 64, 4).mean((1, 3)) > 0.25
    assert (small == coarse).mean() > 0.9
