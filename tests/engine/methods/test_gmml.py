import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vitkiln import kernels
from vitkiln.engine import plans
from vitkiln.engine.decoder import patches_of
from vitkiln.engine.methods import find
from vitkiln.engine.methods.gmml import Crops
from vitkiln.engine.settings import Encoder, gmml
from vitkiln.engine.vocabulary import Batch

SIZES = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 3, "heads": 2, "position": "learned"}
ENCODER = Encoder(**SIZES, init="truncated_normal")
EVERY_IMAGE, NONE = {"replace_probability": 1.0}, {"replace_probability": 0.0}


def method(encoder=ENCODER, **settings):
    torch.manual_seed(0)
    return find("gmml")(gmml.Settings(**settings), encoder)


def batch(size=5, side=32, small=(), step=5):
    torch.manual_seed(1)
    sides = [side, side, *small]
    views = tuple(torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8) for side in sides)
    return Batch(views, torch.arange(size), torch.tensor([0, step]))


def large(found, b):
    return next(found.crops(b))


def fate(found, b):
    crops = large(found, b)
    return found.fate(crops.numbers, len(b.ids), b.seed)


def normalised(images, encoder=ENCODER):
    return (images.double() / 255 - torch.tensor(encoder.mean).double()) / torch.tensor(encoder.std).double()


def published(prediction, images, mask):
    """The mean over every corrupted value of all images, without our operators."""
    error = (prediction.double() - patches_of(normalised(images), 8)).abs()
    return error[patches_of(mask[..., None].expand_as(images), 8)].mean()


# corruption


def test_pixels_outside_the_groups_are_untouched():
    found, b = method(), batch(40)
    crops = large(found, b)
    corrupted, mask = found.corrupt(crops, b)
    assert corrupted.dtype == torch.uint8
    assert torch.equal(corrupted[~mask], crops.images[~mask])
    assert not torch.equal(corrupted, crops.images)


def test_half_of_the_images_show_another_of_their_own_view():
    replaced, _, partner = fate(method(), batch(2000))
    assert replaced.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(4000))
    assert torch.equal(partner // 2000, torch.arange(4000) // 2000)
    assert len(partner[:2000].unique()) > 1200  # 1 - 1/e of them, were it any


def test_any_image_of_the_view_is_as_likely_as_another():
    _, _, partner = method().fate(torch.arange(8000), 4, torch.tensor([0, 5]))  # as if of 2000 views
    assert torch.equal(partner // 4, torch.arange(8000) // 4)
    shares = (partner % 4).bincount(minlength=4) / 8000
    assert (shares - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 8000)


@pytest.mark.parametrize("align", [1, 8])
def test_what_shows_through_is_the_other_image_at_the_same_place(align):
    found, b = method(align=align, **EVERY_IMAGE), batch(20)
    crops, (_, _, partner) = large(found, b), fate(found, b)
    corrupted, mask = found.corrupt(crops, b)
    assert torch.equal(corrupted[mask], crops.images[partner][mask])


def test_noise_has_the_mean_and_deviation_of_normalised_pixels():
    found, b = method(**NONE), batch(64)
    corrupted, mask = found.corrupt(large(found, b), b)
    noise = normalised(corrupted)[mask]
    torch.testing.assert_close(noise.mean(0), torch.zeros(3).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.ones(3).double(), atol=0.06, rtol=0)  # cut at black and white


def test_as_published_noise_is_neither_rounded_nor_cut():
    found, b = method(eight_bit=False, **NONE), batch(64)
    corrupted, mask = found.corrupt(large(found, b), b)
    assert torch.equal(corrupted[~mask], large(found, b).images[~mask] / 255)
    noise = normalised(corrupted * 255)[mask].flatten()
    inside = torch.erf(torch.tensor([1.0, 2.0, 3.0]) / 2**0.5)
    shares = torch.stack([(noise.abs() < limit).float().mean() for limit in (1, 2, 3)])
    torch.testing.assert_close(shares, inside, atol=0.004, rtol=0)


def test_the_encoder_sees_the_same_clean_pixels_either_way():
    b = batch()
    rounded, exact = (method(eight_bit=flag, **EVERY_IMAGE)(b).total for flag in (True, False))
    torch.testing.assert_close(rounded, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_zeros_are_the_mean_colour(eight_bit):
    found, b = method(drop="zeros", eight_bit=eight_bit, **NONE), batch()
    corrupted, mask = found.corrupt(large(found, b), b)
    seen = corrupted if eight_bit else corrupted * 255
    assert (normalised(seen)[mask].abs() < (0.5 / 255 / 0.224 if eight_bit else 1e-6)).all()


def test_noise_is_aimed_at_half_to_three_quarters_and_another_image_at_three_tenths():
    replaced, target, _ = fate(method(), batch(500))
    noisy = target[~replaced]
    assert (target[replaced] == torch.tensor(0.3)).all()
    assert 0.5 <= noisy.min() < 0.51
    assert 0.74 < noisy.max() <= 0.75


def test_a_share_below_one_half_is_the_share_itself():
    _, target, _ = fate(method(drop_share=0.4, **NONE), batch(20))
    torch.testing.assert_close(target, torch.full((40,), 0.4))


@pytest.mark.parametrize("anchor", ["corner", "centered"])
@pytest.mark.parametrize("align", [1, 2, 8])
def test_the_share_is_reached_and_passed_by_less_than_a_group(align, anchor):
    found, b = method(align=align, anchor=anchor), batch(100)
    _, target, _ = fate(found, b)
    covered = found.corrupt(large(found, b), b)[1].flatten(1).sum(1)
    largest = max(int(0.3 * 32), align) ** 2
    assert (covered >= target * 32 * 32).all()
    assert (covered - target * 32 * 32 < largest).all()


def test_groups_are_of_whole_patches_unless_said_otherwise():
    found, b = method(), batch(50)
    tiles = patches_of(found.corrupt(large(found, b), b)[1][..., None], 8)
    assert torch.equal(tiles.all(-1), tiles.any(-1))
    tiles = patches_of(method(align=1).corrupt(large(found, b), b)[1][..., None], 8)
    assert not torch.equal(tiles.all(-1), tiles.any(-1))


@pytest.mark.parametrize(("align", "expected"), [(1, 0.474), (16, 0.478)])
def test_the_published_share_of_a_batch_is_corrupted(align, expected):
    encoder = Encoder(**{**SIZES, "image_size": 224, "patch_size": 16})
    found, ids = method(encoder, align=align), torch.arange(600)
    crops = Crops(torch.zeros(600, 224, 224, 3, dtype=torch.uint8), ids, None)
    b = Batch((crops.images,), ids, torch.tensor([3, 7]))
    assert found.corrupt(crops, b)[1].float().mean().item() == pytest.approx(expected, abs=4 * 0.17 / math.sqrt(600))


@pytest.mark.parametrize("size", [32, 48, 60, 64, 80, 96, 97, 128, 180, 224])
def test_every_alignment_that_divides_an_image_ends(size):
    for align in (unit for unit in range(1, size + 1) if size % unit == 0):
        encoder = Encoder(**{**SIZES, "image_size": size, "patch_size": align, "width": 4, "depth": 1})
        found, b = method(encoder), batch(4, side=size)
        mask = found.corrupt(large(found, b), b)[1]
        assert (mask.flatten(1).float().mean(1) >= fate(found, b)[1] - 1e-6).all()


def test_corruption_follows_step_sample_and_view():
    found, b = method(**NONE), batch(6)
    whole, mask = found.corrupt(large(found, b), b)
    some = Batch(tuple(view[2:4] for view in b.views), b.ids[2:4], b.seed)
    part, its_mask = found.corrupt(large(found, some), some)
    assert torch.equal(part, whole[[2, 3, 8, 9]])
    assert torch.equal(its_mask, mask[[2, 3, 8, 9]])
    assert not torch.equal(mask[:6], mask[6:])
    assert not torch.equal(mask, found.corrupt(large(found, b), replace(b, seed=torch.tensor([0, 6])))[1])


# model


def test_the_published_head_has_its_number_of_parameters():
    with torch.device("meta"):
        found = find("gmml")(gmml.Settings(), Encoder(name="vit_small"))
    assert sum(p.numel() for p in found.head.parameters()) == 738_435


def test_blocks_6_8_10_and_12_of_twelve_are_decoded():
    settings = gmml.Settings()
    assert settings.decoded(12) == (6, 8, 10, 12)
    assert [settings.decoded(depth) for depth in (1, 2, 3, 4, 24)] == [(1,), (2,), (1, 3), (2, 4), (*range(12, 25, 2),)]
    assert gmml.Settings(blocks=(2, 3)).decoded(3) == (2, 3)


def entering(found, images):
    """What the head is given."""
    seen = {}
    handle = found.head.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    found.reconstruct(images)
    handle.remove()
    return seen["x"]


@pytest.mark.parametrize("registers", [0, 2])
def test_the_last_block_alone_is_what_the_encoder_says_of_patches(registers):
    found, b = method(Encoder(**SIZES, registers=registers), blocks=(3,)), batch()
    tokens = found.encoder(b.views[0])
    torch.testing.assert_close(entering(found, b.views[0]), tokens[:, 1 + registers :])


def test_several_blocks_are_averaged_before_the_last_norm():
    found, b = method(blocks=(1, 3)), batch()
    first, last = found.encoder.layers(b.views[0], (1, 3))
    expected = F.layer_norm((first + last) / 2, (32,), found.encoder.norm.weight, found.encoder.norm.bias, 1e-6)
    torch.testing.assert_close(entering(found, b.views[0]), expected[:, 1:])


def test_permuting_the_batch_permutes_what_is_reconstructed():
    found, b = method(**NONE), batch(6)
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    other = Batch(tuple(view[turn] for view in b.views), b.ids[turn], b.seed)
    said, turned = (found.reconstruct(found.corrupt(large(found, x), x)[0]) for x in (b, other))
    torch.testing.assert_close(turned, said[torch.cat([turn, 6 + turn])])
    torch.testing.assert_close(found(other).total, found(b).total)


def test_drop_path_is_that_of_each_view():
    found, b = method(Encoder(**SIZES, drop_path=0.5), local_crops=1, local_size=16), batch(small=(16,))
    drawn = plans.branches(b, 3, 0.5)
    assert torch.equal(torch.cat([crops.branches for crops in found.crops(b)]), drawn)
    corrupted, mask = found.corrupt(large(found, b), b)
    said = found.reconstruct(corrupted, drawn[:10])
    torch.testing.assert_close(found(b).terms["reconstruction"], found.error(said, large(found, b).images, mask))
    assert not torch.equal(said, found.reconstruct(corrupted))


# loss


def test_the_loss_is_the_mean_over_all_corrupted_values_of_both_views():
    found, b = method(), batch()
    corrupted, mask = found.corrupt(large(found, b), b)
    expected = published(found.reconstruct(corrupted), large(found, b).images, mask)
    torch.testing.assert_close(found(b).total.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_ignores_what_is_said_of_untouched_pixels():
    found, b = method(align=1), batch()
    corrupted, mask = found.corrupt(large(found, b), b)
    said = found.reconstruct(corrupted).detach().requires_grad_()
    (grad,) = torch.autograd.grad(found.error(said, large(found, b).images, mask), said)
    assert torch.equal(grad != 0, patches_of(mask[..., None].expand(-1, -1, -1, 3), 8))


def test_the_loss_may_be_of_all_pixels():
    found, b = method(only_corrupted=False), batch()
    images = large(found, b).images
    said = found.reconstruct(found.corrupt(large(found, b), b)[0])
    everywhere = torch.ones(images.shape[:3], dtype=torch.bool)
    torch.testing.assert_close(found(b).total.double(), published(said, images, everywhere), rtol=1e-5, atol=1e-6)


def test_where_nothing_is_corrupted_the_loss_is_nought():
    found, b = method(), batch()
    said = found.reconstruct(b.views[0])
    loss = found.error(said, b.views[0], torch.zeros(5, 32, 32, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in found.parameters())


def test_small_crops_add_a_term_of_the_same_weight():
    found, b = method(local_crops=2, local_size=16), batch(small=(16, 16))
    losses = found(b)
    assert list(losses.terms) == ["reconstruction", "small_reconstruction"]
    _, small = found.crops(b)
    assert small.images.shape == (10, 16, 16, 3)
    corrupted, mask = found.corrupt(small, b)
    expected = published(found.reconstruct(corrupted), small.images, mask)
    torch.testing.assert_close(losses.terms["small_reconstruction"].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(losses.total, sum(losses.terms.values()))


def test_how_much_is_corrupted_is_reported():
    found, b = method(), batch()
    _, mask = found.corrupt(large(found, b), b)
    torch.testing.assert_close(found(b).metrics["corrupted"], mask.float().mean())


def test_bf16_loss_is_close_to_fp32():
    found, b = method(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = found(b).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, found(b).total, rtol=1e-2, atol=1e-2)


def test_every_parameter_learns():
    found = method(blocks=(2, 3))
    found(batch()).total.backward()
    assert all(p.grad is not None for p in found.parameters() if p.requires_grad)


def test_it_learns_one_batch():
    found, b = method(), batch(4)
    smooth = torch.linspace(0, 255, 32).view(32, 1, 1).expand(4, 32, 32, 3).to(torch.uint8)
    b = replace(b, views=(smooth, smooth.flip(2)))
    optimizer, seen = torch.optim.AdamW(found.parameters(), lr=3e-3), []
    for _ in range(50):
        losses = found(b)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(losses.total.item())
    assert seen[-1] < 0.3 * seen[0]


# views, pictures


def test_two_large_views_are_lightly_coloured_and_never_gray():
    first, second = method().views()
    assert first == second
    assert (first.size, first.scale, first.interpolation, first.flip) == (32, (0.05, 1.0), "bicubic", 0.5)
    assert (first.jitter, first.jitter_probability, first.blur) == ((0.1, 0.1, 0.1, 0.01), 0.3, 0.1)
    assert (first.gray, first.solarize) == (0.0, 0.0)


def test_small_views_come_after_the_large_ones():
    views = method(local_crops=3, local_size=16).views()
    assert [view.size for view in views] == [32, 32, 16, 16, 16]
    assert [view.scale for view in views[1:3]] == [(0.05, 1.0), (0.05, 0.4)]


def picture(found, b):
    """The four rows of the picture, as images."""
    rows = found.pictures(b)["reconstruction"].chunk(4)
    return [torch.stack(row.chunk(len(b.ids), 1)) for row in rows]


@pytest.mark.parametrize("eight_bit", [True, False])
def test_pictures_show_the_image_what_is_seen_of_it_and_the_groups(eight_bit):
    found, b = method(eight_bit=eight_bit), batch()
    original, seen, _, white = picture(found, b)
    corrupted, mask = method().corrupt(large(found, b), b)
    assert torch.equal(original, b.views[0])
    assert torch.equal(seen, corrupted[:5])
    assert torch.equal(white, torch.where(mask[:5, ..., None], 255, 0).expand_as(white).to(torch.uint8))


def test_a_perfect_reconstruction_is_painted_as_the_image():
    found, b = method(), batch()
    found.head.forward = lambda x: patches_of(normalised(b.views[0]), 8).float()
    assert torch.equal(picture(found, b)[2], b.views[0])


def test_the_reference_says_the_same():
    found, b = method(), batch()
    with kernels.use("reference"):
        torch.testing.assert_close(found(b).total, method()(b).total, rtol=1e-5, atol=1e-6)
