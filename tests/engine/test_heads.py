import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitkiln.engine.heads import BatchNorm, PrototypeHead, batch_norm_mlp


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


@pytest.mark.parametrize(("learned_gain", "more"), [(False, 0), (True, 65_536)])
def test_dinos_head_has_the_published_parameter_count(learned_gain, more):
    with torch.device("meta"):
        head = PrototypeHead([384, 2048, 2048, 256], 65_536, learned_gain)
    assert sum(p.numel() for p in head.parameters()) == 22_286_592 + more


def test_dinos_head_is_three_layers_with_gelu_between_them_and_unit_length():
    head, x = PrototypeHead([8, 16, 16, 4], 5), torch.randn(6, 8)
    first, second, third = head.layers
    plain = third(F.gelu(second(F.gelu(first(x)))))
    torch.testing.assert_close(head(x), plain / plain.norm(dim=1, keepdim=True))


def test_dinos_head_begins_at_the_published_values():
    head = PrototypeHead([64, 256, 256, 32], 100)
    for layer in head.layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


def test_prototypes_have_unit_length_unless_their_gain_is_learned():
    fixed, free = PrototypeHead([8, 4], 5), PrototypeHead([8, 4], 5, learned_gain=True)
    torch.testing.assert_close(fixed.prototypes().norm(dim=1), torch.ones(5))
    torch.nn.init.constant_(free.gain, 3.0)
    torch.testing.assert_close(free.prototypes().norm(dim=1), torch.full((5,), 3.0))
    assert fixed.last_layer() == [fixed.last.weight]
    assert free.last_layer() == [free.last.weight, free.gain]


def test_the_length_of_a_prototypes_weight_means_nothing():
    head = PrototypeHead([8, 4], 5)
    before = head.prototypes().detach().clone()
    with torch.no_grad():
        head.last.weight.mul_(torch.rand(5, 1) + 0.5)
    torch.testing.assert_close(head.prototypes(), before)


def test_dinos_features_are_fp32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert PrototypeHead([8, 16, 4], 5)(torch.randn(6, 8)).dtype == torch.float32
