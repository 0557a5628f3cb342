"""Supervised training: the soft-target loss, where its features come from, and what it says of clean images."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from vitkiln.engine.export import timm_arguments
from vitkiln.engine.methods import find
from vitkiln.engine.methods.supervised import Supervised
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.supervised import Settings
from vitkiln.engine.vocabulary import Batch

ENCODER = Encoder(image_size=32, patch_size=8, width=32, depth=2, heads=2)
PLAIN = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "erase": 0.0}


def method(encoder=ENCODER, **more):
    torch.manual_seed(0)
    return Supervised(Settings(**{"classes": 7, "head_std": 0.5, **more}), encoder)


def batch(size=6, step=5):
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8)
    return Batch((pixels,), torch.arange(size), torch.tensor([0, step]), torch.arange(size) % 7)


def rows(whole, part):
    return Batch((whole.views[0][part],), whole.ids[part], whole.seed, whole.labels[part])


def test_it_is_found_by_name():
    assert find("supervised") is Supervised


@pytest.mark.parametrize("classes", [2, 7, 1000])
@pytest.mark.parametrize("more", [{}, {"mixup": 0.0}, {"cutmix": 0.0}, PLAIN])
def test_a_head_at_zero_loses_ln_c_however_labels_are_mixed(classes, more):
    supervised = method(classes=classes, **more)
    torch.nn.init.zeros_(supervised.head.weight)
    given = rows(batch(), slice(0, 2))  # labels 0 and 1
    assert supervised(given).total.item() == pytest.approx(math.log(classes), rel=1e-5)


def test_the_loss_without_regularisation_is_cross_entropy():
    supervised, given = method(**PLAIN), batch()
    logits = supervised.head(supervised.encoder(given.views[0])[:, 0])
    torch.testing.assert_close(supervised(given).total, F.cross_entropy(logits, given.labels))


def test_the_loss_with_all_of_it_is_that_of_the_mixed_targets():
    supervised, given = method(), batch()
    images, targets = supervised.seen(given)
    logs = supervised.logits(images).log_softmax(1)
    torch.testing.assert_close(supervised(given).total, -(targets * logs).sum(1).mean())


def test_erasing_shows_in_what_the_encoder_sees():
    seen = method(**{**PLAIN, "erase": 1.0}).seen(batch())[0]
    assert (seen != batch().views[0].float() / 255).flatten(1).any(1).all()


def test_without_mixing_and_erasing_the_encoder_sees_the_pixels_as_they_are():
    given = batch()
    assert method(**PLAIN).seen(given)[0] is given.views[0]


def vision_transformer():
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).parents[1] / "with_timm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.vision_transformer().VisionTransformer


@pytest.mark.parametrize(("pool", "theirs"), [("class", "token"), ("mean", "avg"), ("mean_norm", "avg")])
def test_logits_are_those_of_timms_classifier(pool, theirs):
    supervised, pixels = method(pool=pool), batch().views[0]
    for parameter in supervised.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {name.removeprefix("encoder."): value for name, value in supervised.state_dict().items()}
    if theirs == "avg":  # there the norm after the mean is the only one
        state |= {f"fc_norm.{name}": state.pop(f"norm.{name}") for name in ("weight", "bias")}
    arguments = {**timm_arguments(ENCODER), "num_classes": 7, "global_pool": theirs}
    timm = vision_transformer()(**arguments).eval()
    timm.load_state_dict(state)
    normalised = (pixels / 255 - supervised.mean) / supervised.std
    with torch.no_grad():
        expected = timm(normalised.permute(0, 3, 1, 2))
    torch.testing.assert_close(supervised.predict(pixels), expected, atol=1e-4, rtol=1e-4)


def test_registers_and_class_token_are_no_part_of_the_mean():
    supervised = method(ENCODER.model_copy(update={"registers": 3, "depth": 1}), pool="mean")
    pixels = batch().views[0]
    for branch in (supervised.encoder.blocks[0].attn.proj, supervised.encoder.blocks[0].mlp.fc2):
        torch.nn.init.zeros_(branch.weight)  # blocks that say nothing: tokens stay apart
        torch.nn.init.zeros_(branch.bias)
    before = supervised.predict(pixels)
    torch.nn.init.normal_(supervised.encoder.cls_token)
    torch.nn.init.normal_(supervised.encoder.reg_token)
    assert torch.equal(supervised.predict(pixels), before)


@pytest.mark.parametrize("pool", ["class", "mean_norm"])
def test_on_a_frozen_encoder_the_head_alone_learns_and_no_path_is_dropped(pool):
    supervised, given = method(ENCODER.model_copy(update={"drop_path": 0.5}), pool=pool, frozen=True, **PLAIN), batch()
    losses = supervised(given)
    losses.total.backward()
    learned = {name for name, p in supervised.named_parameters() if p.requires_grad}
    assert (
        learned == {"head.weight", "head.bias"} == {n for n, p in supervised.named_parameters() if p.grad is not None}
    )
    expected = F.cross_entropy(supervised.predict(given.views[0]), given.labels)
    torch.testing.assert_close(losses.total.detach(), expected)


def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass():
    supervised, kept = method(frozen=True, pool="mean_norm", **PLAIN), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        supervised(batch())
    assert max(kept) <= 6 * 32  # the features of six images


def test_with_the_mean_everything_that_learns_gets_a_gradient():
    supervised = method(pool="mean")
    supervised(batch()).total.backward()
    assert [name for name, p in supervised.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not supervised.encoder.norm.weight.requires_grad


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_what_is_exported_is_a_whole_encoder(pool):
    exported = method(pool=pool).backbone().state_dict()
    assert set(exported) == set(find("supervised")(Settings(classes=2), ENCODER).encoder.state_dict())


def test_the_head_begins_at_its_deviation_and_without_bias():
    supervised = method(classes=1000, head_std=2e-5)
    assert supervised.head.weight.std().item() == pytest.approx(2e-5, rel=0.02)
    assert not supervised.head.bias.any()


def test_predictions_of_images_it_has_learned_are_right():
    supervised, given = method(**PLAIN), batch()
    optimizer = torch.optim.AdamW(supervised.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        losses = supervised(given)
        losses.total.backward()
        optimizer.step()
    assert losses.metrics["accuracy"] == 1
    assert (supervised.predict(given.views[0]).argmax(1) == given.labels).all()


def test_predictions_know_no_drop_path_and_no_mixing():
    supervised = method(ENCODER.model_copy(update={"drop_path": 0.5}))
    pixels = batch().views[0]
    torch.testing.assert_close(supervised.predict(pixels[:2]), supervised.predict(pixels)[:2], atol=1e-5, rtol=1e-5)
    assert not torch.equal(supervised(batch(step=5)).total, supervised(batch(step=6)).total)
    assert not supervised.predict(pixels).requires_grad


def test_accuracy_asks_for_the_heavier_label():
    supervised, given = method(cutmix=0.0, smoothing=0.0), batch(7)
    targets = supervised.seen(given)[1]
    supervised.logits = lambda images, branches=None: targets.clone().requires_grad_()
    assert supervised(given).metrics["accuracy"] == 1
    supervised.logits = lambda images, branches=None: -targets.clone().requires_grad_()
    assert supervised(given).metrics["accuracy"] == 0


@pytest.mark.parametrize("parts", [2, 4])
def test_ranks_together_lose_what_one_rank_loses(parts):
    supervised, whole = method(ENCODER.model_copy(update={"drop_path": 0.2})), batch(8)
    shares = [supervised(rows(whole, part)).total for part in torch.arange(8).chunk(parts)]
    torch.testing.assert_close(torch.stack(shares).mean(), supervised(whole).total, atol=1e-5, rtol=1e-5)


def test_its_view_says_what_the_workers_do():
    (view,) = method(randaugment="rand-m7-inc1", padding=4, vertical_flip=0.5).views()
    assert (view.size, view.randaugment, view.padding, view.vertical_flip) == (32, "rand-m7-inc1", 4, 0.5)
    assert (view.scale, view.interpolation, view.flip) == ((0.08, 1.0), "bicubic", 0.5)
    assert (view.jitter_probability, view.gray, view.blur, view.solarize) == (0, 0, 0, 0)
    assert view.fill == (124, 116, 104)  # the mean of the data


def test_jitter_and_gray_come_as_often_as_is_said():
    (view,) = method(jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, gray=0.2).views()
    assert (view.jitter_probability, view.gray) == (0.8, 0.2)


def test_jitter_is_always_done_where_it_is_asked_for():
    (view,) = method(jitter=(0.3, 0.3, 0.3, 0.0), randaugment=None).views()
    assert (view.jitter, view.jitter_probability) == ((0.3, 0.3, 0.3, 0.0), 1.0)


def test_pictures_show_the_crops_and_what_becomes_of_them():
    picture = method().pictures(batch())["views"]
    assert (picture.shape, picture.dtype) == ((64, 192, 3), torch.uint8)
    assert torch.equal(picture[:32, :32], batch().views[0][0])


def test_classes_are_those_of_the_data():
    assert Settings().with_data(10).classes == 10
    assert Settings(classes=12).with_data(10).classes == 12


@pytest.mark.parametrize(("classes", "found"), [(None, None), (5, 10)])
def test_data_without_labels_or_with_more_than_were_said_are_refused(classes, found):
    with pytest.raises(ValueError, match=r"needs labels|must be at least as many"):
        Settings(classes=classes).with_data(found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"randaugment": "rand-m9"},
        {"crop_scale": (0.5, 0.1)},
        {"jitter": (0.1, 0.1, 0.1, 0.6)},
        {"mixup": -0.1},
        {"pool": "max"},
        {"pool": "mean", "frozen": True},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings(**wrong)


def test_padding_that_leaves_nothing_in_sight_is_refused():
    (problem,) = Settings(padding=32).misfits(ENCODER)
    assert problem.told() == "padding=32: must be less than encoder.image_size=32"
