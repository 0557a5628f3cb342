import math

import pytest
import torch

from vitkiln.engine import relations
from vitkiln.kernels.relation_loss import relation_labels

SIDES = range(3, 15)
PUBLISHED = {  # entropy of labels, best constant accuracy, mean and variance of distances and of angles
    4: (2.1644, 0.1406, -0.0534, 0.2151, -0.3716, 0.2133),
    5: (2.1098, 0.1600, -0.0993, 0.1887, -0.3983, 0.1921),
    6: (2.0564, 0.1736, -0.1288, 0.1743, -0.4157, 0.1797),
    7: (2.0085, 0.1837, -0.1492, 0.1651, -0.4280, 0.1714),
    8: (1.9665, 0.1914, -0.1643, 0.1588, -0.4371, 0.1657),
    14: (1.8019, 0.2156, -0.2080, 0.1419, None, None),
}


def spots(side):
    return [(row, column) for row in range(side) for column in range(side)]


def table(side, value):
    """Of every pair, one by one."""
    return torch.tensor([[value(p, q) for q in spots(side)] for p in spots(side)])


def named(p, q):
    """The place of p seen from q in the words of the paper: left or right, up or down, or the centre."""
    vertical = "L" if p[1] < q[1] else "R" if p[1] > q[1] else "C"
    horizontal = "U" if p[0] < q[0] else "D" if p[0] > q[0] else "C"
    return ["LU", "CU", "RU", "LC", "CC", "RC", "LD", "CD", "RD"].index(vertical + horizontal)


def angle(p, q, side):
    if p == q:
        return 0.0
    (y, x), (v, u) = ((row + side / 2, column + side / 2) for row, column in (p, q))
    return math.acos((x * u + y * v) / (math.hypot(x, y) * math.hypot(u, v) + 1e-4)) / math.pi


@pytest.mark.parametrize("side", SIDES)
def test_relations_are_those_of_the_definition(side):
    assert torch.equal(relation_labels(*relations.places(side)), table(side, named))


@pytest.mark.parametrize("side", SIDES)
def test_distances_are_those_of_the_definition(side):
    expected = table(side, lambda p, q: 2 * math.dist(p, q) / (math.sqrt(2) * (side - 1)) - 1)
    torch.testing.assert_close(relations.distances(side), expected)


@pytest.mark.parametrize("side", SIDES)
def test_angles_are_those_of_the_definition(side):
    raw = table(side, lambda p, q: angle(p, q, side)).double()
    torch.testing.assert_close(relations.angles(side), (2 * raw / raw.max() - 1).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", SIDES)
def test_relations_are_antisymmetric_and_the_others_symmetric(side):
    labels = relation_labels(*relations.places(side))
    assert torch.equal(labels.T, 8 - labels)
    for values in (relations.distances(side), relations.angles(side)):
        assert torch.equal(values, values.T)
        assert (values.diagonal() == -1).all()
        assert values.max() == 1


@pytest.mark.parametrize("side", SIDES)
def test_relations_occur_as_often_as_counted(side):
    counts = relation_labels(*relations.places(side)).flatten().bincount().tolist()
    corner, edge = (side * (side - 1) // 2) ** 2, side**2 * (side - 1) // 2
    assert counts == [corner, edge, corner, edge, side**2, edge, corner, edge, corner]


@pytest.mark.parametrize("side", PUBLISHED)
def test_tables_have_the_published_statistics(side):
    share = relation_labels(*relations.places(side)).flatten().bincount() / side**4
    found = [-(share * share.log()).sum(), share.max()]
    for values in (relations.distances(side), relations.angles(side)):
        found += [values.mean(), values.var(correction=0)]
    for value, expected in zip(found, PUBLISHED[side], strict=True):
        assert expected is None or value.item() == pytest.approx(expected, abs=6e-5)


def test_a_table_follows_the_patches():
    values, sources = relations.distances(3), torch.stack([torch.randperm(9) for _ in range(2)])
    found = relations.of_pairs(values, sources)
    assert all(found[b, p, q] == values[sources[b, p], sources[b, q]] for b, p, q in ((0, 1, 2), (1, 8, 0)))


def test_colours_grow_downwards_and_to_the_right():
    picture = relations.painted(torch.arange(9)[None], 2)
    assert picture.shape == (1, 6, 6, 3)
    assert picture[0, ::2, 0, 0].tolist() == [0, 127, 254]
    assert picture[0, 0, ::2, 1].tolist() == [0, 127, 254]
