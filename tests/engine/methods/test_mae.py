from dataclasses import replace

import pytest
import torch

from vitkiln.engine.decoder import patches_of
from vitkiln.engine.errors import RecipeError
from vitkiln.engine.methods import find
from vitkiln.engine.methods.mae import hidden
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder, dilemma, mae
from vitkiln.engine.vit import ViT
from vitkiln.engine.vocabulary import Batch

SIZES = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 2, "init": "mae"}
ENCODER = Encoder(**SIZES)
SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def method(encoder=ENCODER, **settings):
    torch.manual_seed(0)
    return find("mae")(mae.Settings(**{**SMALL, **settings}), encoder)


def misled(wrong_probability=0.5, **settings):
    torch.manual_seed(0)
    chosen = dilemma.over("mae")(base="mae", wrong_probability=wrong_probability, **{**SMALL, **settings})
    return find("dilemma")(chosen, ENCODER)


def batch(size=5, side=32):
    torch.manual_seed(1)
    view = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    return Batch((view,), torch.arange(size), torch.tensor([0, 5]))


def targets(images, encoder, norm_pix=True):
    pixels = (images.double() / 255 - torch.tensor(encoder.mean).double()) / torch.tensor(encoder.std).double()
    patches = patches_of(pixels, encoder.patch_size)
    if not norm_pix:
        return patches
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_is_the_published_one(norm_pix):
    found, b = method(norm_pix=norm_pix).double(), batch()
    plan = found.plan(b)
    prediction = found.decoder(found.encoder(b.views[0], plan), plan.restore)
    each = (prediction - targets(b.views[0], ENCODER, norm_pix)).square().mean(-1)
    mask = torch.ones(5, 16, dtype=torch.float64).scatter_(1, plan.keep, 0)
    torch.testing.assert_close(found(b).total, (each * mask).sum() / mask.sum())


def test_a_prediction_of_nought_loses_one_less_one_in_768():
    found, b = method(Encoder(**{**SIZES, "image_size": 64, "patch_size": 16})), batch(side=64)
    torch.nn.init.zeros_(found.decoder.pixels.weight)
    assert found(b).total.item() == pytest.approx(767 / 768, abs=2e-5)


def test_three_quarters_of_196_patches_are_hidden():
    found = method(Encoder(**{**SIZES, "image_size": 112}))
    assert hidden(found.plan(batch(side=112))).sum(1).tolist() == [147] * 5


def test_restore_undoes_the_shuffle():
    found, b = method(keep=0.5), batch()
    plan = found.plan(b)
    order = plan.restore.argsort(1)
    assert torch.equal(order.gather(1, plan.restore), torch.arange(16).expand(5, 16))
    assert torch.equal(order[:, :8], plan.keep)
    assert not hidden(plan).gather(1, plan.keep).any()


def test_the_loss_ignores_what_is_said_of_visible_patches():
    found, b, said = method(), batch(), {}
    found.decoder.register_forward_hook(lambda module, inputs, output: said.update(prediction=output))
    total = found(b).total
    (grad,) = torch.autograd.grad(total, said["prediction"])
    reached = grad.abs().sum(-1) > 0
    assert torch.equal(reached, hidden(found.plan(b)))


def test_the_encoder_sees_the_visible_patches_at_their_places_and_the_decoder_all():
    found, seen = method(), {}
    for name, blocks in (("encoder", found.encoder.blocks), ("decoder", found.decoder.blocks)):
        blocks[0].register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output[0].shape[1]}))
    b = batch()
    found(b)
    plan = found.plan(b)
    assert seen == {"encoder": 1 + 4, "decoder": 1 + 16}
    assert torch.equal(plan.keep, plan.place)


def test_the_encoder_knows_nothing_of_hidden_pixels():
    found, b = method(), batch()
    plan = found.plan(b)
    patches = patches_of(b.views[0], 8)
    blank = torch.where(hidden(plan)[..., None], 0, patches)
    other = blank.view(5, 4, 4, 8, 8, 3).transpose(2, 3).reshape(5, 32, 32, 3)
    assert torch.equal(found.encoder(b.views[0], plan), found.encoder(other, plan))


def test_plans_follow_step_and_sample():
    found, b = method(), batch()
    whole, part = found.plan(b).keep, found.plan(Batch((b.views[0][2:4],), b.ids[2:4], b.seed)).keep
    assert torch.equal(whole[2:4], part)
    assert not torch.equal(whole, found.plan(Batch(b.views, b.ids, torch.tensor([0, 6]))).keep)


def test_the_view_is_cropped_and_flipped_and_nothing_else():
    (view,) = method().views()
    assert (view.scale, view.interpolation, view.flip) == ((0.2, 1.0), "bicubic", 0.5)
    assert (view.jitter_probability, view.gray, view.blur, view.solarize) == (0.0, 0.0, 0.0, 0.0)


def test_encoder_begins_as_published():
    torch.manual_seed(0)
    vit = ViT(Encoder(**{**SIZES, "width": 256}))
    qkv, patch = vit.blocks[0].attn.qkv.weight, vit.patch_embed.proj
    bounds = {qkv: (6 / (256 + 3 * 256)) ** 0.5, patch.weight: (6 / (256 + 3 * 8**2)) ** 0.5}
    for weight, bound in bounds.items():
        assert 0.99 * bound < weight.abs().max() <= bound
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert patch.bias.abs().max() > 0  # PyTorch's default, as in the published code


def test_the_published_encoder_has_its_number_of_parameters():
    with torch.device("meta"):
        vit = ViT(load("mae", ["data.root=x"]).encoder)
    assert sum(p.numel() for p in vit.parameters()) == 85_798_656


def picture(found, b):
    """The three rows of the picture, as images."""
    rows = found.pictures(b)["reconstruction"].chunk(3)
    return [torch.stack(row.chunk(len(b.ids), 1)) for row in rows]


def test_pictures_show_the_image_then_what_is_seen_of_it():
    found, b = method(), batch()
    original, seen, _ = picture(found, b)
    assert torch.equal(original, b.views[0])
    unknown = hidden(found.plan(b))[..., None]
    assert torch.equal(patches_of(seen, 8), torch.where(unknown, 128, patches_of(original, 8)).to(torch.uint8))


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_is_painted_as_the_image(norm_pix):
    found, b = method(norm_pix=norm_pix), batch()
    found.decoder.forward = lambda tokens, restore: targets(b.views[0], ENCODER, norm_pix).float()
    assert torch.equal(picture(found, b)[2], b.views[0])


def test_visible_patches_are_pasted_over_the_reconstruction():
    found, b = method(), batch()
    seen, whole = (patches_of(row, 8) for row in picture(found, b)[1:])
    visible = ~hidden(found.plan(b))
    assert torch.equal(seen[visible], whole[visible])
    assert not torch.equal(seen, whole)


def test_bf16_loss_is_close_to_fp32():
    found, b = method(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = found(b).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, found(b).total, rtol=1e-2, atol=1e-2)


def test_it_learns_one_batch():
    found, b = method(keep=0.5), batch(4)
    smooth = torch.linspace(0, 255, 32).view(32, 1, 1).expand(4, 32, 32, 3).to(torch.uint8)
    b = replace(b, views=(smooth,))
    optimizer = torch.optim.AdamW(found.parameters(), lr=3e-3)
    seen = []
    for _ in range(40):
        losses = found(b)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(losses.total.item())
    assert seen[-1] < 0.2 * seen[0]


def test_registers_go_through_the_decoder_with_the_class_token():
    found, b = method(Encoder(**SIZES, registers=2)), batch()
    assert torch.isfinite(found(b).total)


def test_nothing_wrong_under_dilemma_is_mae():
    ours, base = misled(wrong_probability=0.0), method()
    base.load_state_dict({name.removeprefix("base."): value for name, value in ours.state_dict().items()})
    torch.testing.assert_close(ours(batch()).total, base(batch()).total)


def test_under_dilemma_the_encoder_is_misled_and_decoder_and_target_are_not():
    ours, b = misled(), batch()
    plan = ours.plan(b)
    tokens = ours.base.encoder(b.views[0], plan)
    told_right = replace(plan, place=plan.keep, wrong=torch.zeros_like(plan.wrong))
    assert plan.wrong.any()
    assert not torch.equal(tokens, ours.base.encoder(b.views[0], told_right))
    assert torch.equal(ours.base.losses(b, tokens, plan).total, ours.base.losses(b, tokens, told_right).total)


def test_under_dilemma_wrong_places_are_those_of_hidden_patches():
    plan = misled().plan(batch())
    assert hidden(plan).gather(1, plan.place)[plan.wrong].all()


def test_under_dilemma_both_terms_reach_the_encoder():
    ours = misled(weight=0.5)
    losses = ours(batch())
    assert list(losses.terms) == ["reconstruction", "detection"]
    torch.testing.assert_close(losses.terms["detection"], 0.5 * losses.metrics["detection_loss"])
    losses.total.backward()
    assert all(p.grad is not None for p in ours.parameters() if p.requires_grad)


@pytest.mark.parametrize("recipe", ["mae", "dilemma_mae"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.keep=0.001", "method.keep=0.001: keeps none of 196 patches; must be at least 0.0052"),
        ("method.keep=1.0", "method.keep=1: hides none of 196 patches; must be less than 1"),
        (
            "encoder.image_size=16",
            "method.keep=0.25: an image of one patch has none to hide; encoder.image_size must exceed a patch",
        ),
        (
            "method.decoder_heads=12",
            "method.decoder_width=512: must be a multiple of decoder_heads=12, and of 4 for sin-cos positions; "
            "the nearest is 516",
        ),
        ("method.crop_scale=[0.5,0.1]", "method.crop_scale=[0.5, 0.1]: must be two shares of the area"),
        ("method.decoder_depth=0", "method.decoder_depth=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(recipe, override, message):
    with pytest.raises(RecipeError) as refused:
        load(recipe, ["data.root=x", override])
    assert str(refused.value).count(message) == 1
