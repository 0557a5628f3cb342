import math

import pytest
import torch
import torch.nn.functional as F

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.methods import find
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder, dilemma, simclr
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2)
SMALL = {"hidden": 64, "output": 16}


def method(**more):
    torch.manual_seed(0)
    return find("simclr")(simclr.Settings(**SMALL, **more), ENCODER)


def batch(size=6):
    torch.manual_seed(1)
    views = tuple(torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8) for _ in range(2))
    return Batch(views, torch.arange(size), torch.tensor([0, 5]))


def formula(features, temperature):
    """NT-Xent of [2N, D], view by view, word for word."""
    similarity = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T / temperature
    count, lost = len(features), []
    for anchor in range(count):
        partner = (anchor + count // 2) % count
        others = [similarity[anchor, other] for other in range(count) if other != anchor]
        lost.append(torch.stack(others).logsumexp(0) - similarity[anchor, partner])
    return torch.stack(lost).mean()


def test_loss_and_gradients_are_those_of_the_formula():
    ours, theirs, b = method().double(), method().double(), batch()
    expected = formula(theirs.projector(theirs.encoder(torch.cat(b.views))[:, 0]), 0.2)
    expected.backward()
    found = ours(b).total
    found.backward()
    torch.testing.assert_close(found, expected)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, atol=1e-10, rtol=1e-6)


def test_swapping_the_views_changes_nothing():
    simclr_, b = method(), batch()
    swapped = Batch(b.views[::-1], b.ids, b.seed)
    torch.testing.assert_close(simclr_(b).total, simclr_(swapped).total)


@pytest.mark.parametrize(("images", "tabled"), [(256, 6.2364), (1024, 7.6241)])
def test_equal_features_give_the_tabled_loss(images, tabled):
    simclr_ = method()
    simclr_.projector = torch.nn.Identity()
    b = Batch((), torch.arange(images), torch.tensor([0, 0]))
    loss = simclr_.losses(b, torch.ones(2 * images, 1, 32), plan=None).total.item()
    assert loss == pytest.approx(tabled, abs=1e-4)
    assert loss == pytest.approx(math.log(2 * images - 1), abs=1e-5)


def test_equal_views_of_different_images_agree_and_lose_less_than_chance():
    b = batch()
    losses = method()(Batch((b.views[0], b.views[0]), b.ids, b.seed))
    assert losses.metrics["agreement"].item() == pytest.approx(1.0, abs=1e-5)
    assert losses.total < math.log(11)


def test_everything_learns_and_nothing_has_a_copy():
    simclr_ = method()
    simclr_(batch()).total.backward()
    assert all(p.grad is not None for p in simclr_.parameters() if p.requires_grad)
    assert {name.split(".")[0] for name, _ in simclr_.named_parameters()} == {"encoder", "projector"}


def test_two_images_are_the_smallest_batch_and_give_a_finite_loss():
    assert torch.isfinite(method()(batch(2)).total)


def test_an_anchor_has_every_other_view_but_its_partner_as_negative():
    assert method().negatives(1024) == 2046


def test_views_are_simclrs_two():
    first, second = find("simclr")(simclr.Settings(**SMALL), ENCODER).views()
    assert first == second
    assert (first.scale, first.interpolation, first.ratio) == ((0.08, 1.0), "bicubic", (3 / 4, 4 / 3))
    assert (first.jitter, first.jitter_probability, first.gray) == ((0.8, 0.8, 0.8, 0.2), 0.8, 0.2)
    assert (first.blur, first.blur_sigma, first.solarize, first.flip) == (0.5, (0.1, 2.0), 0.0, 0.5)


def test_bf16_loss_is_close_to_fp32():
    simclr_, b = method(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = simclr_(b).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, simclr_(b).total, rtol=1e-2, atol=1e-2)


def test_it_learns_one_batch():
    simclr_, b = method(), batch(8)
    optimizer = torch.optim.AdamW(simclr_.parameters(), lr=1e-3)
    seen = []
    for _ in range(30):
        losses = simclr_(b)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(losses.total.item())
    assert seen[-1] < 0.5 * seen[0]


def test_nothing_wrong_and_everything_kept_under_dilemma_is_simclr():
    whole = dilemma.over("simclr")(base="simclr", keep=1.0, wrong_probability=0.0, **SMALL)
    ours, base = find("dilemma")(whole, ENCODER), method()
    base.load_state_dict({name.removeprefix("base."): value for name, value in ours.state_dict().items()})
    torch.testing.assert_close(ours(batch()).total, base(batch()).total, atol=1e-6, rtol=1e-6)


def test_under_dilemma_both_views_are_seen_in_part_and_misled():
    torch.manual_seed(0)
    half = dilemma.over("simclr")(base="simclr", keep=0.5, wrong_probability=0.5, **SMALL)
    dilemma_, b = find("dilemma")(half, ENCODER), batch()
    first, second = dilemma_.plan(b).wrong.chunk(2)
    assert first.any()
    assert second.any()
    assert list(dilemma_(b).terms) == ["contrast", "detection"]


def test_the_recipe_has_the_published_projector():
    recipe = load("simclr", ["data.root=x"])
    torch.manual_seed(0)
    projector = find("simclr")(recipe.method, recipe.encoder.model_copy(update={"depth": 1})).projector
    assert sum(p.numel() for p in projector.parameters()) == 19_415_040


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.crop_scale=[0.5,0.1]", "method.crop_scale=[0.5, 0.1]: must be two shares of the area"),
        ("method.jitter=[0.8,0.8,0.8,0.6]", "the last, hue, must be at most 0.5"),
        ("method.temperature=0", "method.temperature=0: must be more than 0"),
        ("data.batch_size=1", "data.batch_size=1"),
    ],
)
def test_settings_that_cannot_be_are_refused(override, message):
    with pytest.raises(RecipeError) as refused:
        load("simclr", ["data.root=x", override])
    assert message in str(refused.value)
