import pytest
import torch

from vitkiln.engine.evaluate.knn import predict, told


def points(seed=0, count=60, classes=3):
    torch.manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.randn(count, 8) + 3 * torch.eye(8)[labels], labels


def test_one_neighbour_is_the_nearest_one():
    bank, labels = points()
    queries = torch.randn(20, 8)
    nearest = torch.nn.functional.cosine_similarity(queries[:, None], bank[None], dim=-1).argmax(1)
    assert torch.equal(predict(bank, labels, queries, 1, 3), labels[nearest])


def test_scaling_features_changes_nothing():
    bank, labels = points()
    queries = torch.randn(20, 8)
    scaled = predict(bank * torch.rand(60, 1) * 9, labels, queries * 5, 10, 3)
    assert torch.equal(scaled, predict(bank, labels, queries, 10, 3))


def test_a_doubled_bank_with_twice_the_neighbours_answers_the_same():
    bank, labels = points()
    queries = torch.randn(20, 8)
    doubled = predict(bank.repeat(2, 1), labels.repeat(2), queries, 20, 3)
    assert torch.equal(doubled, predict(bank, labels, queries, 10, 3))


@pytest.mark.parametrize("k", [5, 60, 200])
def test_votes_are_weighted_by_similarity(k):
    bank, labels = points()
    queries = torch.randn(7, 8)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], bank[None], dim=-1)
    expected = []
    for row in cosine:
        best = row.argsort(descending=True)[:k]
        votes = [sum((row[i] / 0.07).exp() for i in best if labels[i] == c) for c in range(3)]
        expected.append(int(torch.tensor(votes).argmax()))
    assert predict(bank, labels, queries, k, 3).tolist() == expected


def test_chunks_change_nothing():
    bank, labels = points()
    queries = torch.randn(20, 8)
    assert torch.equal(predict(bank, labels, queries, 10, 3, chunk=3), predict(bank, labels, queries, 10, 3))


def test_the_line_that_is_logged_tells_every_kind_of_features():
    tops = {"top1": {"k10": 1.0, "k20": 40.0}, "top1_mean": {"k10": 2.0}}
    before = {"untrained_top1": {"k20": 30.0}, "untrained_top1_mean": {"k10": 1.5}}
    line = told({**tops, **before, "queries": 5, "split": "val", "images": 9, "classes": 3})
    assert line == (
        "kNN (k=20) top-1: 40.00% trained, 30.00% untrained; by mean 2.00% trained, 1.50% untrained "
        "(5 images of val against 9, 3 classes)"
    )
