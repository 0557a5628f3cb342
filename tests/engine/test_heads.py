import torch
from torch import nn

from vitkiln.engine.heads import BatchNorm, batch_norm_mlp


def test_batch_norm_equals_pytorchs_in_training():
    x = torch.randn(6, 5, requires_grad=True)
    torch.testing.assert_close(BatchNorm(5)(x), nn.BatchNorm1d(5)(x))


def test_batch_norm_over_ranks_equals_one_rank():
    x = torch.randn(6, 5, dtype=torch.float64) * 3 + 100
    norm = BatchNorm(5, affine=False).double()
    torch.testing.assert_close(norm.over_ranks(x), norm(x))


def test_mocov3_heads_have_the_published_parameter_counts():
    count = lambda widths: sum(p.numel() for p in batch_norm_mlp(widths).parameters())  # noqa: E731
    assert count([384, 4096, 4096, 256]) == 19_415_040
    assert count([256, 4096, 256]) == 2_105_344


def test_the_last_layer_is_normalised_without_scale_or_relu():
    out = batch_norm_mlp([8, 16, 4])(torch.randn(64, 8))
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert (out < 0).any()
