"""Encoders begin with the weights of runs, exports and timm's files, and say what is wrong with others."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder
from vitkiln.engine.train import run
from vitkiln.engine.vit import ViT, build

SMALL = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 2, "position": "learned"}
DATA = ("data.categories=4", "data.instances=4", "data.fractal_size=32", "data.batch_size=8", "data.workers=0")
RUN = ("run.steps=2", "run.precision=fp32", "run.tensorboard=false", "run.knn=false", "run.checkpoint_every=1")


def encoder(**more):
    torch.manual_seed(7)
    return ViT(Encoder(**{**SMALL, **more}))


def begun(path, **more):
    return build(Encoder(**{**SMALL, "weights": str(path), **more}))


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def file(tmp_path):
    save_file(encoder().state_dict(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shape = [f"encoder.{key}={value}" for key, value in SMALL.items()]
    heads = ("method.hidden=16", "method.output=8")
    return run(load("mocov3", [*shape, *heads, *DATA, *RUN, "data.source=fractal"], short=True), folder)


@pytest.mark.parametrize("classes", [1, 1000])
def test_a_head_of_any_shape_is_left_out(tmp_path, classes):
    head = {"head.weight": torch.zeros(classes, 32), "head.bias": torch.zeros(classes)}
    save_file({**encoder().state_dict(), **head}, tmp_path / "a.safetensors")
    assert same(encoder().state_dict(), begun(tmp_path / "a.safetensors").state_dict())


def test_a_norm_of_the_mean_takes_the_place_of_a_norm_that_is_not_there(tmp_path):
    state = encoder().state_dict()
    renamed = {f"fc_{name}" if name.startswith("norm.") else name: 2 * value for name, value in state.items()}
    save_file(renamed, tmp_path / "a.safetensors")
    assert torch.equal(begun(tmp_path / "a.safetensors").norm.weight, 2 * state["norm.weight"])


def test_a_run_folder_gives_its_newest_encoder(trained):
    expected = load_file(trained / "checkpoints" / "step-0000002" / "method.safetensors")
    expected = {name[8:]: value for name, value in expected.items() if name.startswith("encoder.")}
    assert same(expected, begun(trained).state_dict())


def test_a_checkpoint_folder_gives_its_own_encoder(trained):
    first, second = (begun(trained / "checkpoints" / f"step-000000{step}") for step in (1, 2))
    assert not same(first.state_dict(), second.state_dict())


def test_a_sincos_table_goes_on_as_a_learned_one(tmp_path):
    save_file(encoder(position="sincos").state_dict(), tmp_path / "a.safetensors")
    table = begun(tmp_path / "a.safetensors").pos_embed
    assert table.requires_grad
    assert torch.equal(table, encoder(position="sincos").pos_embed)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"width": 64}, "cls_token is [1, 1, 32] there and [1, 1, 64] here; it fits encoder.width=32,"),
        ({"patch_size": 4}, "patch_embed.proj.weight is [32, 3, 8, 8] there and [32, 3, 4, 4] here"),
        ({"depth": 3}, "blocks.2.norm1.weight is missing; it fits encoder.width=32, encoder.depth=2"),
        ({"depth": 1}, "blocks.1.attn.proj.bias has no place here; it fits encoder.width=32, encoder.depth=2"),
        ({"registers": 2}, "reg_token is missing"),
        ({"layer_scale": 0.1}, "blocks.0.ls1.gamma is missing"),
        ({"mlp_ratio": 2.0}, "blocks.0.mlp.fc1.weight is [128, 32] there and [64, 32] here"),
    ],
)
def test_the_first_weight_that_does_not_fit_is_named_and_what_would(file, more, fault):
    with pytest.raises(RecipeError) as error:
        begun(file, **more)
    assert f"encoder.weights={file}: {fault}" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_part_of_what_fits_is_said(tmp_path):
    shape = {"registers": 3, "layer_scale": 0.1, "class_position": False, "mlp_ratio": 2.0}
    save_file(encoder(**shape).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(RecipeError) as error:
        begun(tmp_path / "a.safetensors")
    assert str(error.value).endswith(
        "it fits encoder.width=32, encoder.depth=2, encoder.patch_size=8, encoder.mlp_ratio=2, encoder.registers=3, "
        "encoder.class_position=false, encoder.layer_scale=any number"
    )


@pytest.mark.parametrize("said", [{"name": "vit_small", "heads": 2}, {"name": "vit_small", "heads": None}])
def test_other_heads_are_refused_where_the_file_knows_its_own(tmp_path, said):
    save_file(encoder().state_dict(), tmp_path / "a.safetensors", {"encoder": json.dumps(said)})
    there = said["heads"] or 6
    with pytest.raises(RecipeError, match=rf"{there} heads there and 4 here; it fits .*encoder\.heads={there}"):
        begun(tmp_path / "a.safetensors", heads=4)


def test_other_heads_than_a_runs_are_refused(trained):
    with pytest.raises(RecipeError, match="2 heads there and 4 here"):
        begun(trained, heads=4)


def test_weights_of_something_else_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(RecipeError, match=r"cls_token is missing; it fits no encoder of ours: a Vision Transformer's"):
        begun(tmp_path / "a.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(RecipeError, match=r"a\.pth: cannot be read \(.*\); must be a safetensors file under timm's"):
        begun(tmp_path / "a.pth")


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="no such file or folder; must be a run folder, a checkpoint in one, or a"):
        begun(tmp_path / "absent")
    with pytest.raises(RecipeError, match=re.escape(f"{tmp_path}: no checkpoint here")):
        begun(tmp_path)
