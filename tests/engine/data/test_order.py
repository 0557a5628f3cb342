"""The order of the images is a function of seed and step alone."""

import numpy as np
import pytest

from vitkiln.engine.data.order import Order
from vitkiln.engine.errors import DataError


def step_ids(order: Order, step: int) -> np.ndarray:
    return np.concatenate([order.ids(step, micro) for micro in range(order.accumulate)])


def test_an_epoch_shows_every_image_at_most_once_and_drops_less_than_a_step() -> None:
    order = Order(103, 10, seed=0)
    seen = np.concatenate([order.ids(step, 0) for step in range(order.steps_per_epoch)])
    assert order.steps_per_epoch == 10
    assert len(np.unique(seen)) == 100


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    order = Order(64, 64, seed=0)
    first, second = order.ids(0, 0), order.ids(1, 0)
    assert sorted(first) == sorted(second) == list(range(64))
    assert list(first) != list(second)
    assert list(first) != list(Order(64, 64, seed=1).ids(0, 0))


def test_a_step_is_found_without_the_steps_before_it() -> None:
    running = Order(50, 8, seed=3)
    before = [running.ids(step, 0) for step in range(20)]
    assert all((Order(50, 8, seed=3).ids(step, 0) == ids).all() for step, ids in enumerate(before))


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 1), (2, 3), (4, 2)])
def test_ranks_and_micro_batches_share_a_step_without_changing_it(accumulate: int, world: int) -> None:
    whole = Order(100, 24, seed=0).ids(5, 0)
    ranks = [Order(100, 24, seed=0, accumulate=accumulate, rank=rank, world=world) for rank in range(world)]
    joined = [order.ids(5, micro) for micro in range(accumulate) for order in ranks]
    assert (np.concatenate(joined) == whole).all()


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size: 10; must be divisible by accumulate \* world, 2 \* 2"):
        Order(100, 10, seed=0, accumulate=2, world=2)


def test_a_batch_larger_than_the_source_names_the_largest_possible() -> None:
    with pytest.raises(DataError, match=r"data.batch_size: 11 .* at most 10"):
        Order(10, 11, seed=0)


@pytest.mark.parametrize("repeats", [2, 3])
def test_with_repeats_an_epoch_is_as_long_and_holds_copies_of_fewer_images(repeats: int) -> None:
    order = Order(96, 12, seed=0, repeats=repeats)
    seen = np.concatenate([order.ids(step, 0) for step in range(order.steps_per_epoch)])
    assert len(np.unique(seen)) == len(seen) == 96
    assert (seen >= 0).all()
    assert (seen < repeats * 96).all()
    assert (np.unique(seen % 96, return_counts=True)[1] == repeats).all()


@pytest.mark.parametrize("batch_size", [12, 24])
def test_all_copies_of_an_image_are_in_one_step(batch_size: int) -> None:
    order = Order(96, batch_size, seed=0, repeats=3)
    for step in range(order.steps_per_epoch):
        images, counts = np.unique(order.ids(step, 0) % 96, return_counts=True)
        assert (len(images), *counts) == (batch_size // 3, *[3] * (batch_size // 3))


def test_copies_that_two_steps_share_are_all_there() -> None:
    order = Order(100, 10, seed=0, repeats=3)
    seen = np.concatenate([order.ids(step, 0) for step in range(10)])
    counts = np.unique(seen % 100, return_counts=True)[1]
    assert sorted(counts) == [1, *[3] * 33]


def test_neighbours_within_a_step_are_different_images() -> None:
    order = Order(100, 20, seed=0, repeats=3)
    for step in range(10):
        images = order.ids(step, 0) % 100
        assert (images[::2] != images[1::2]).all()


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 1), (2, 2)])
def test_ranks_and_micro_batches_share_a_step_of_copies_without_changing_it(accumulate: int, world: int) -> None:
    whole = Order(100, 24, seed=0, repeats=3).ids(6, 0)
    ranks = [Order(100, 24, seed=0, repeats=3, accumulate=accumulate, rank=r, world=world) for r in range(world)]
    joined = [order.ids(6, micro) for micro in range(accumulate) for order in ranks]
    assert (np.concatenate(joined) == whole).all()


def test_micro_batches_left_at_the_end_of_an_epoch_are_a_shorter_step() -> None:
    order = Order(103, 40, seed=0, accumulate=4, leftover=True)  # 10 micro-batches of 10, 3 images over
    assert order.steps_per_epoch == 3
    assert [order.parts(step) for step in range(6)] == [4, 4, 2, 4, 4, 2]
    for epoch in range(2):
        steps = range(3 * epoch, 3 * epoch + 3)
        seen = np.concatenate([order.ids(step, micro) for step in steps for micro in range(order.parts(step))])
        assert len(np.unique(seen)) == len(seen) == 100


def test_without_leftovers_they_are_dropped() -> None:
    order = Order(103, 40, seed=0, accumulate=4)
    assert (order.steps_per_epoch, [order.parts(step) for step in range(4)]) == (2, [4, 4, 4, 4])


def test_whole_steps_are_those_of_an_order_without_leftovers() -> None:
    plain, left = (Order(103, 40, seed=0, accumulate=4, leftover=leftover) for leftover in (False, True))
    assert all((plain.ids(step, micro) == left.ids(step, micro)).all() for step in range(2) for micro in range(4))


def test_images_fewer_than_a_step_still_make_one_of_what_there_is() -> None:
    order = Order(25, 40, seed=0, accumulate=4, leftover=True)
    assert (order.steps_per_epoch, order.parts(0), order.parts(7)) == (1, 2, 2)


def test_images_fewer_than_a_micro_batch_are_refused() -> None:
    with pytest.raises(DataError, match=r"data.batch_size: 40 in 4 parts, 10 images each, .* must be at most 36"):
        Order(9, 40, seed=0, accumulate=4, leftover=True)


@pytest.mark.parametrize("repeats", [1, 3])
def test_ranks_share_a_shorter_step_without_changing_it(repeats: int) -> None:
    how = {"seed": 0, "accumulate": 4, "leftover": True, "repeats": repeats}
    whole, ranks = Order(103, 40, **how), [Order(103, 40, **how, rank=rank, world=2) for rank in range(2)]
    for micro in range(whole.parts(2)):
        joined = np.concatenate([order.ids(2, micro) for order in ranks])
        assert (joined == whole.ids(2, micro)).all()
