"""T2T-ViT: its tokens, its performers, its table, and the blocks that it shares with every Vision Transformer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.export import export, opened
from vitkiln.engine.optim import blocks_above
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.backbones import PARAMETERS
from vitkiln.engine.t2t import FEATURES, Performer, T2TViT, TokensToToken, sinusoid
from vitkiln.engine.train import run
from vitkiln.engine.vit import blocks_of, build
from vitkiln.engine.vocabulary import Plan

SMALL = {"name": "t2t_vit_14", "image_size": 64, "width": 32, "depth": 2, "heads": 2}
RUN = (
    "encoder.name=t2t_vit_14", "encoder.width=32", "encoder.depth=2", "encoder.heads=2", "encoder.image_size=32",
    "encoder.init=truncated_normal", "data.source=fractal", "data.categories=4", "data.instances=4",
    "data.fractal_size=32", "data.batch_size=8", "data.workers=0", "run.tensorboard=false", "run.knn=false",
    "run.steps=2",
)  # fmt: skip


def encoder(**more):
    torch.manual_seed(0)
    return build(Encoder(**{**SMALL, **more})).eval()


def images(size=64, batch=2):
    return torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)


def test_it_has_the_published_number_of_parameters():
    with torch.device("meta"):
        vit = build(Encoder(name="t2t_vit_14"))
    learned = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    assert learned + 385 * 1000 == 21_481_934  # 21.5 M with a head
    assert sum(p.numel() for p in vit.parameters()) == PARAMETERS["t2t_vit_14"]


def test_a_performer_attends_by_the_mean_over_its_features():
    torch.manual_seed(0)
    performer = Performer(48, 64).double()
    query, key, value = torch.randn(3, 2, 10, 64, dtype=torch.float64).mul(0.3)
    feature = lambda x: torch.exp(x @ performer.features.T - x.square().sum(-1, keepdim=True) / 2)  # noqa: E731
    scores = feature(query) @ feature(key).transpose(1, 2) / FEATURES
    expected = scores / scores.sum(-1, keepdim=True) @ value
    torch.testing.assert_close(performer.attend(query, key, value), expected, rtol=1e-6, atol=1e-6)


def test_the_kernel_of_many_performers_falls_with_the_distance():
    torch.manual_seed(0)
    query, key = F.normalize(torch.randn(2, 1, 1, 64), dim=-1)
    drawn = [performer.kernel(query) @ performer.kernel(key).mT for performer in (Performer(8, 64) for _ in range(100))]
    expected = torch.exp(-(query - key).square().sum() / 4)
    assert abs(torch.stack(drawn).mean() / expected - 1) < 0.1


def test_random_features_are_at_right_angles_and_do_not_learn():
    performer = Performer(48, 64)
    torch.testing.assert_close(performer.features @ performer.features.T, FEATURES * torch.eye(FEATURES))
    assert "features" in performer.state_dict()
    assert "features" not in dict(performer.named_parameters())


def test_attention_stays_in_full_precision_under_autocast():
    performer = Performer(48, 64)
    seen = []
    performer.proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        performer(torch.randn(2, 10, 48))
    assert seen == [torch.float32]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_a_token_stands_for_16_pixels_a_side(height, width):
    assert TokensToToken(24)(torch.randn(2, 3, height, width)).shape == (2, height // 16 * (width // 16), 24)


def test_the_table_goes_through_all_rows_and_is_made_anew_for_another_size():
    vit = encoder()
    assert torch.equal(vit.pos_embed[0], sinusoid(17, 32))
    prefix, table = vit.positions((2, 6))
    torch.testing.assert_close(table, sinusoid(13, 32)[1:])
    torch.testing.assert_close(prefix, vit.cls_token[0] + sinusoid(1, 32))


def test_averaged_tokens_do_not_count_what_lies_beyond_the_edge():
    fine, coarse = encoder(), encoder(patch_size=32)
    coarse.load_state_dict(fine.state_dict())
    pixels = images()
    tokens = fine(pixels)[:, 1:].unflatten(1, (4, 4))
    found = coarse(pixels)[:, 1:].unflatten(1, (2, 2))
    torch.testing.assert_close(found[:, 0, 0], tokens[:, :2, :2].mean((1, 2)))
    torch.testing.assert_close(found[:, 1, 1], tokens[:, 1:4, 1:4].mean((1, 2)))
    torch.testing.assert_close(found[:, 0, 1], tokens[:, :2, 1:4].mean((1, 2)))


@pytest.mark.parametrize("patch_size", [16, 32])
@pytest.mark.parametrize("size", [64, 96])
def test_the_class_token_is_the_first_row(patch_size, size):
    vit, pixels, branches = encoder(patch_size=patch_size), images(size), torch.rand(2, 2, 2)
    tokens = vit(pixels, branches=branches)
    assert tokens.shape == (2, 1 + (size // patch_size) ** 2, 32)
    torch.testing.assert_close(vit.class_token(pixels, branches=branches), tokens[:, 0], atol=1e-6, rtol=1e-6)


def test_every_weight_but_the_table_learns():
    vit = encoder()
    vit(images()).square().sum().backward()
    assert [name for name, p in vit.named_parameters() if p.grad is None] == ["pos_embed"]


def test_its_blocks_are_compiled_and_its_rates_decay_like_those_of_any_other():
    vit = encoder()
    assert blocks_of(nn.ModuleList([vit])) == [*vit.blocks]
    above = blocks_above(vit)
    assert {above[p] for p in vit.patch_embed.parameters()} == {3}
    assert {above[p] for p in vit.blocks[1].parameters()} == {1}


def test_a_plan_that_hides_patches_is_refused():
    with pytest.raises(ValueError, match="t2t_vit_14 sees every patch at its place"):
        encoder()(images(), Plan(torch.zeros(2, 3, dtype=torch.int64)))


@pytest.mark.parametrize("recipe", ["mae", "dilemma", "dilemma_mae"])
def test_a_method_that_hides_patches_refuses_it_in_one_line(recipe):
    with pytest.raises(RecipeError) as error:
        load(recipe, [*RUN, "encoder.patch_size=16", "encoder.position=sincos"], short=False)
    assert "needs a plain Vision Transformer, not encoder.name=t2t_vit_14; that must be one of vit_tiny" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_what_it_leaves_no_choice_of_is_said():
    with pytest.raises(ValueError, match="patch_size=8: must be 16 or 32 for t2t_vit_14"):
        Encoder(name="t2t_vit_14", patch_size=8)


def test_a_named_kind_brings_what_it_was_published_with():
    assert Encoder(name="t2t_vit_14").mlp_ratio == 3.0
    assert Encoder(name="t2t_vit_14", mlp_ratio=2.0).mlp_ratio == 2.0


def test_a_run_of_it_is_exported_under_our_names_and_opened_again(tmp_path):
    small = ("method.hidden=16", "method.output=8", "encoder.patch_size=16", "encoder.drop_path=0.3")
    folder = run(load("simclr", [*RUN, *small], short=True), tmp_path / "run")
    found = opened(export(folder, tmp_path / "out.safetensors"))
    assert isinstance(found, T2TViT)
    assert {"patch_embed.first.features", "blocks.1.attn.qkv.weight"} <= {*found.state_dict()}
    assert found.class_token(images(32)).shape == (2, 32)
