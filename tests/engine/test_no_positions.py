"""An encoder that is told no places: it cannot tell patches apart by them, and goes on from and into those that can."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder
from vitkiln.engine.vit import ViT, build

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
KINDS = ("learned", "sincos")


def encoder(seed=0, **more):
    torch.manual_seed(seed)
    return ViT(Encoder(**{**SMALL, "position": "none", **more})).eval()


def shuffled(images, order):
    """Patches of 8 x 8 pixels in another order: token i shows patch order[i]."""
    patches = images.unflatten(1, (4, 8)).unflatten(3, (4, 8)).transpose(2, 3).flatten(1, 2)
    return patches[:, order].unflatten(1, (4, 4)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def test_there_is_no_table():
    assert "pos_embed" not in encoder().state_dict()


@pytest.mark.parametrize("registers", [0, 2])
def test_shuffled_patches_give_the_same_tokens_in_another_order(registers):
    vit, order = encoder(registers=registers), torch.randperm(16)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    plain, moved = vit(images), vit(shuffled(images, order))
    torch.testing.assert_close(moved[:, vit.prefix :], plain[:, vit.prefix :][:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved[:, : vit.prefix], plain[:, : vit.prefix], atol=1e-5, rtol=1e-5)


def test_with_positions_they_do_not():
    vit, images = encoder(position="sincos"), torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    order = torch.arange(15, -1, -1)
    assert (vit(shuffled(images, order))[:, 1:] - vit(images)[:, 1:][:, order]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_positions_begin_anew_where_the_weights_have_none(tmp_path, caplog, kind):
    before, file = encoder(1), tmp_path / "a.safetensors"
    save_file(before.state_dict(), file)
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO, "vitkiln"):
        tuned = build(Encoder(**SMALL, position=kind, weights=str(file)))
    assert torch.equal(tuned.pos_embed, encoder(position=kind).pos_embed)
    assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in before.state_dict().items())
    assert f"it has no positions, which begin anew, encoder.position={kind}" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_the_weights_are_left_out_where_there_are_none(tmp_path, caplog, kind):
    before, file = encoder(1, position=kind), tmp_path / "a.safetensors"
    save_file(before.state_dict(), file)
    with caplog.at_level(logging.INFO, "vitkiln"):
        after = build(Encoder(**SMALL, position="none", weights=str(file))).state_dict()
    assert {*before.state_dict()} - {*after} == {"pos_embed"}
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in after.items())
    assert "its positions are left out, encoder.position=none" in caplog.text


def test_a_word_is_said_only_where_something_is_new_or_left_out(tmp_path, caplog):
    save_file(encoder(1).state_dict(), tmp_path / "a.safetensors")
    with caplog.at_level(logging.INFO, "vitkiln"):
        build(Encoder(**SMALL, position="none", weights=str(tmp_path / "a.safetensors")))
    assert "positions" not in caplog.text


def test_a_wrong_place_is_refused_where_none_is_told():
    with pytest.raises(RecipeError, match=r"wrong_probability=0\.2: patches that are told no place cannot be told a w"):
        load("dilemma", ["encoder.position=none"])


def test_without_wrong_places_seeing_in_part_is_allowed():
    assert load("dilemma", ["encoder.position=none", "method.wrong_probability=0"]).encoder.position == "none"
