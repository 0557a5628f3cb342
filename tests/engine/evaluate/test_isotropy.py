"""Three measures of how evenly features use their directions, at both ends of their scales."""

import pytest
import torch

from vitkiln.engine.evaluate import evaluate
from vitkiln.engine.evaluate.isotropy import effective_rank, mean_cosine, measures, partition_ratio


def gaussian(count=20_000, width=16, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_direction():
    return torch.rand(500, 1, dtype=torch.float64).add(0.5) * torch.ones(16, dtype=torch.float64)


def test_an_isotropic_cloud_is_told_as_such():
    found = measures(gaussian())
    assert found["mean_cosine"] == pytest.approx(0, abs=0.01)
    assert found["partition_ratio"] > 0.9
    assert found["effective_rank"] == pytest.approx(16, abs=0.05)


def test_one_direction_is_told_as_such():
    found = measures(one_direction())
    assert found["mean_cosine"] == pytest.approx(1)
    assert found["partition_ratio"] < 0.01
    assert found["effective_rank"] == pytest.approx(1, abs=1e-6)


def test_opposite_directions_have_no_mean_cosine():
    x = one_direction()
    x[::2] *= -1
    assert mean_cosine(x) == pytest.approx(0, abs=0.05)


def test_scaling_and_turning_change_neither_cosine_nor_rank():
    x = gaussian(300, 8) + 1.0
    turn = torch.linalg.qr(gaussian(8, 8, seed=1)).Q
    for changed in (7 * x, x @ turn):
        assert mean_cosine(changed) == pytest.approx(mean_cosine(x))
        assert effective_rank(changed) == pytest.approx(effective_rank(x))


def test_turning_changes_no_partition_ratio():
    x = gaussian(300, 8) + 0.3
    turn = torch.linalg.qr(gaussian(8, 8, seed=1)).Q
    assert partition_ratio(x @ turn) == pytest.approx(partition_ratio(x))


def test_large_features_do_not_overflow():
    assert 0 <= partition_ratio(1e4 * one_direction()) < 1e-6


@pytest.mark.parametrize("x", [gaussian(5000, 8) + 0.5, one_direction().repeat(10, 1)], ids=["spread", "one"])
def test_the_rank_of_many_rows_is_that_of_their_singular_values(x):
    share = torch.linalg.svdvals(x)
    share = share / share.sum()
    assert effective_rank(x) == pytest.approx(torch.special.entr(share).sum().exp().item(), rel=1e-6)


def test_pairs_are_of_two_different_rows():
    assert mean_cosine(torch.eye(2)) == 0.0


def test_a_checkpoint_is_measured_with_labels_or_without(checkpoint, photos):
    found = evaluate(checkpoint, photos / "train" / "red", "isotropy", workers=0, device="cpu")
    assert (found["images"], found["split"], found["class"]["width"]) == (20, "train", 32)
    assert 1 <= found["class"]["effective_rank"] <= 32
    assert evaluate(checkpoint, photos, "isotropy", workers=0, device="cpu")["images"] == 21


def test_of_masked_autoencoders_the_patches_are_measured_too(patchwise, photos):
    found = evaluate(patchwise, photos, "isotropy", workers=0, device="cpu")
    assert found["class"] != found["mean"]
    assert "mean" not in evaluate(patchwise, photos, "isotropy", features="class", workers=0, device="cpu")
