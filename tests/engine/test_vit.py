import importlib.util
from pathlib import Path

import pytest
import torch

from vitkiln import kernels
from vitkiln.engine.export import timm_arguments
from vitkiln.engine.positions import resample, sincos
from vitkiln.engine.settings import Encoder
from vitkiln.engine.vit import ViT, build
from vitkiln.engine.vocabulary import Plan

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
PUBLISHED = {"vit_tiny": 5_524_416, "vit_small": 21_665_664, "vit_base": 85_798_656, "vit_large": 303_301_632}


def timm_module():
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).with_name("with_timm.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.vision_transformer()


def encoder(**more):
    torch.manual_seed(0)
    return ViT(Encoder(**{**SMALL, **more})).eval()


def images(size=32, batch=3):
    return torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)


def normalised(pixels, settings):
    return ((pixels / 255 - torch.tensor(settings.mean)) / torch.tensor(settings.std)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_have_the_published_parameter_counts(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in ViT(Encoder(name=name)).parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"position": "learned"},
        {"position": "learned", "class_position": False},
        {"layer_scale": 0.1},
        {"position": "learned", "class_position": False, "registers": 4},
        {"registers": 2, "width": 48, "heads": 3},
        {"position": "none"},
        {"position": "none", "registers": 2},
    ],
)
def test_timm_loads_our_weights_and_agrees(more):
    ours = encoder(**more)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = timm_module().VisionTransformer(**timm_arguments(ours.settings)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    pixels = images()
    torch.testing.assert_close(
        ours(pixels), theirs.forward_features(normalised(pixels, ours.settings)), atol=1e-5, rtol=1e-5
    )


def test_we_load_timms_weights_and_agree(tmp_path):
    from safetensors.torch import save_file

    theirs = timm_module().vit_tiny_patch16_224(depth=2).eval()
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = build(
        Encoder(name="vit_tiny", depth=2, position="learned", weights=str(tmp_path / "timm.safetensors"))
    ).eval()
    pixels = images(224, 2)
    torch.testing.assert_close(
        ours(pixels), theirs.forward_features(normalised(pixels, ours.settings)), atol=1e-5, rtol=1e-5
    )


def test_weights_for_another_image_size_are_resampled(tmp_path):
    from safetensors.torch import save_file

    save_file(encoder(position="learned").state_dict(), tmp_path / "a.safetensors")
    larger = build(Encoder(**{**SMALL, "image_size": 48}, position="learned", weights=str(tmp_path / "a.safetensors")))
    assert larger.pos_embed.shape == (1, 1 + 36, 32)


def test_class_token_is_the_first_row_of_forward():
    vit, pixels = encoder(), images()
    torch.testing.assert_close(vit.class_token(pixels), vit(pixels)[:, 0], atol=1e-6, rtol=1e-6)


def test_class_token_is_the_first_row_with_drop_path_too():
    vit, pixels = encoder(), images()
    branches = torch.rand(3, 2, 2)
    torch.testing.assert_close(
        vit.class_token(pixels, branches=branches), vit(pixels, branches=branches)[:, 0], atol=1e-6, rtol=1e-6
    )


def test_a_dropped_branch_leaves_the_residual_alone():
    vit, pixels = encoder(), images()
    expected = vit.norm(vit.embed(pixels, Plan()))
    torch.testing.assert_close(vit(pixels, branches=torch.zeros(3, 2, 2)), expected)


def test_sparse_plan_equals_dense_attention_masked_to_the_kept_patches():
    vit, pixels = encoder(), images(batch=1)
    keep = torch.tensor([[5, 0, 11]])
    seen = [0, *(1 + keep[0]).tolist()]
    mask = torch.full((17, 17), float("-inf"))
    mask[:, seen] = 0
    x = vit.embed(pixels, Plan())
    for block in vit.blocks:
        y = block.norm1(x)
        q, k, v = block.attn.qkv(y).view(1, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(-1, -2) / 4 + mask, -1) @ v
        x = x + block.attn.proj(y.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(vit(pixels, Plan(keep, keep)), vit.norm(x)[:, seen], atol=1e-5, rtol=1e-5)


def test_order_of_kept_patches_changes_nothing_but_their_order():
    vit, pixels = encoder(), images()
    keep = torch.rand(3, 16).argsort(1)
    shuffled, ordered = vit(pixels, Plan(keep, keep)), vit(pixels)
    torch.testing.assert_close(shuffled[:, 0], ordered[:, 0], atol=1e-5, rtol=1e-5)
    expected = ordered[:, 1:].gather(1, keep[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(shuffled[:, 1:], expected, atol=1e-5, rtol=1e-5)


def test_position_gradient_reaches_the_told_place_only():
    vit = encoder(position="learned")
    keep, place = torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.tensor([[7, 1], [7, 3], [7, 5]])
    vit(images(), Plan(keep, place)).square().sum().backward()
    told = vit.pos_embed.grad[0, 1:].abs().sum(1) > 0
    assert told.nonzero().flatten().tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("position", ["sincos", "learned", "none"])
def test_images_of_another_size_are_seen(position):
    assert encoder(position=position)(images(48)).shape == (3, 37, 32)


def test_an_image_that_patches_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="36 x 36 pixels; must be multiples of the patch size 8"):
        encoder()(images(36))


def test_frozen_projection_gets_no_gradient():
    vit = encoder(freeze_patch_embed=True)
    vit(images()).sum().backward()
    assert vit.patch_embed.proj.weight.grad is None
    assert vit.blocks[0].attn.qkv.weight.grad is not None


def test_reference_kernels_agree():
    vit, pixels = encoder(), images()
    with kernels.use("reference"):
        expected = vit(pixels)
    torch.testing.assert_close(vit(pixels), expected, atol=1e-5, rtol=1e-5)


def test_compiles_without_a_graph_break():
    vit, pixels = encoder(), images()
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), vit(pixels), atol=1e-5, rtol=1e-5)


def test_sincos_rows_have_norm_half_the_width():
    torch.testing.assert_close(sincos((14, 14), 384).square().sum(1), torch.full((196,), 192.0))


def test_sincos_puts_the_row_axis_first():
    table = sincos((3, 5), 8).view(3, 5, 8)
    assert torch.equal(table[1, :, :4], table[1, :1, :4].expand(5, 4))
    assert torch.equal(table[:, 2, 4:], table[:1, 2, 4:].expand(3, 4))


@pytest.mark.parametrize("method", ["timm", "mae", "dino"])
def test_resampling_a_constant_table_changes_nothing(method):
    table = torch.full((16, 4), 0.3)
    torch.testing.assert_close(resample(table, (4, 4), (6, 6), method=method), torch.full((36, 4), 0.3))


def test_resampled_sincos_is_the_exact_table():
    assert torch.equal(resample(sincos((4, 4), 8), (4, 4), (6, 6), "sincos"), sincos((6, 6), 8))


def test_mocov3_initialisation_bounds():
    vit = encoder()
    assert 0.9 < vit.blocks[0].attn.qkv.weight.abs().max() / (6 / 64) ** 0.5 <= 1
    assert 0.9 < vit.patch_embed.proj.weight.abs().max() / (6 / (3 * 64 + 32)) ** 0.5 <= 1
    assert vit.blocks[0].attn.qkv.bias.abs().max() == 0


def test_streams_after_blocks_are_those_that_the_next_norm_sees():
    vit, x = encoder(depth=3), images()
    seen = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    vit(x)
    whole = seen[:]
    found = vit.layers(x, (3, 1))
    assert torch.equal(found[0], whole[2])
    assert torch.equal(found[1], whole[0])


def test_the_last_stream_under_the_last_norm_is_what_the_encoder_says():
    vit, x = encoder(registers=2), images()
    (stream,) = vit.layers(x, (2,))
    torch.testing.assert_close(vit.norm(stream), vit(x))


def test_streams_follow_plan_and_drop_path():
    vit, x = encoder(), images()
    plan, kept = Plan(torch.tensor([[3, 1]] * 3), torch.tensor([[0, 1]] * 3)), torch.tensor([0.0, 2.0, 1.0])
    branches = kept.view(3, 1, 1).expand(3, 2, 2)
    (stream,) = vit.layers(x, (2,), plan, branches)
    torch.testing.assert_close(vit.norm(stream), vit(x, plan, branches))


def test_blocks_above_the_highest_named_are_not_computed():
    vit, ran = encoder(depth=3), []
    vit.blocks[1].register_forward_hook(lambda *_: ran.append(2))
    vit.layers(images(), (1,))
    assert not ran


@pytest.mark.parametrize("blocks", [(), (0, 1), (3,), (-1,)])
def test_blocks_that_there_are_not_are_refused(blocks):
    with pytest.raises(ValueError, match=r"must be numbers from 1 to 2"):
        encoder().layers(images(), blocks)
