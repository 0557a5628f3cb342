"""Batches balanced over classes: a function of seed and step, in which every class and every image has its turn."""

import numpy as np
import pytest

from vitkiln.engine.data.balanced import Balanced, order_of
from vitkiln.engine.data.order import Order
from vitkiln.engine.errors import DataError


class Labels:
    """A source of which only the labels are asked for, in no particular order."""

    def __init__(self, sizes, labelled=True):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        self.labels = np.random.Generator(np.random.Philox(3)).permutation(labels)
        self.classes = tuple(f"class{number}" for number in range(len(sizes))) if labelled else None

    def __len__(self):
        return len(self.labels)

    def label(self, index):
        return int(self.labels[index]) if self.classes else -1


def order(sizes=(20,) * 6, batch_size=12, classes=3, **how):
    return Balanced(Labels(sizes), batch_size, classes=classes, **{"seed": 0, **how})


def classes_of(found, order, labels):
    return labels.labels[found % order.length]


@pytest.mark.parametrize("sizes", [(20,) * 6, (6, 9, 30, 17, 8), (40, 7, 6, 6)])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_every_batch_has_so_many_classes_with_as_many_images_each_side_by_side(sizes, classes):
    balanced, labels = order(sizes, 12, classes), Labels(sizes)
    for step in range(3 * balanced.steps_per_epoch):
        found = balanced.ids(step, 0)
        rows = classes_of(found, balanced, labels).reshape(classes, -1)
        assert (rows == rows[:, :1]).all()
        assert len(np.unique(rows[:, 0])) == classes
        assert len(np.unique(found % balanced.length)) == 12


def test_an_epoch_of_equal_classes_shows_every_image_once():
    balanced = order((20,) * 6, 12, 3)
    seen = np.concatenate([balanced.ids(step, 0) for step in range(balanced.steps_per_epoch)])
    assert sorted(seen) == list(range(120))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classes_come_equally_often_but_for_one(classes):
    sizes = (6, 9, 30, 17, 8, 52)
    balanced, labels = order(sizes, 4 * classes, classes), Labels(sizes)
    seen = np.concatenate([balanced.ids(step, 0) for step in range(balanced.steps_per_epoch)])
    drawn = classes_of(seen, balanced, labels).reshape(-1, balanced.each)[:, 0]
    counts = np.bincount(drawn, minlength=6)
    assert counts.max() - counts.min() <= 1


def test_a_class_is_used_up_before_an_image_of_it_comes_again_and_then_as_another_sample():
    sizes = (6, 60, 60)
    balanced, labels = order(sizes, 6, 3), Labels(sizes)
    seen = np.concatenate([balanced.ids(step, 0) for step in range(balanced.steps_per_epoch)])
    small = seen[classes_of(seen, balanced, labels) == 0]
    assert len(small) == 2 * balanced.steps_per_epoch == 42
    rounds = small.reshape(-1, 6)
    assert (rounds // balanced.length == np.arange(7)[:, None]).all()
    assert all(len(np.unique(one % balanced.length)) == 6 for one in rounds)


def test_seeds_and_epochs_differ():
    first, other = order(), order(seed=1)
    assert list(first.ids(0, 0)) != list(other.ids(0, 0))
    assert list(first.ids(0, 0)) != list(first.ids(first.steps_per_epoch, 0))


def test_a_step_is_found_without_the_steps_before_it():
    running = order((4, 9, 30, 17, 8), 12, 3)
    before = [running.ids(step, 0) for step in range(30)]
    assert all((order((4, 9, 30, 17, 8), 12, 3).ids(step, 0) == ids).all() for step, ids in enumerate(before))


@pytest.mark.parametrize(("accumulate", "world"), [(1, 2), (2, 1), (2, 4)])
def test_ranks_share_a_micro_batch_by_classes_without_changing_it(accumulate, world):
    how = {"batch_size": 16 * accumulate, "classes": 4, "accumulate": accumulate}
    whole = order(**how)
    ranks = [order(**how, rank=rank, world=world) for rank in range(world)]
    for micro in range(accumulate):
        joined = [one.ids(2, micro) for one in ranks]
        assert (np.concatenate(joined) == whole.ids(2, micro)).all()
        for part in joined:
            assert len(np.unique(classes_of(part, whole, Labels((20,) * 6)))) == 4 // world


@pytest.mark.parametrize(
    ("sizes", "classes", "text"),
    [
        ((20, 20), 3, "data.classes_per_batch: 3; the data have 2 classes, so it must be at most that"),
        ((20, 2, 20), 3, "data.classes_per_batch: 3 classes of 4 images each; class 'class1' has 2"),
    ],
)
def test_data_that_cannot_fill_a_batch_are_refused(sizes, classes, text):
    with pytest.raises(DataError) as refused:
        order(sizes, 12, classes)
    assert str(refused.value).startswith(text)


def test_images_without_labels_are_refused():
    with pytest.raises(DataError, match=r"data.classes_per_batch: 2 needs labels"):
        Balanced(Labels((20, 20), labelled=False), 4, classes=2, seed=0)


@pytest.mark.parametrize("how", [{"classes": 5}, {"classes": 3, "world": 2}, {"classes": 3, "repeats": 2}])
def test_batches_that_do_not_divide_are_refused(how):
    with pytest.raises(ValueError, match=r"classes: \d; must divide the micro-batch, 12 images"):
        order(**how)


def test_no_classes_asked_for_is_the_plain_order():
    plain = order_of(Labels((20,) * 6), 12, None, seed=0)
    assert type(plain) is Order
    assert (plain.ids(3, 0) == Order(120, 12, seed=0).ids(3, 0)).all()
