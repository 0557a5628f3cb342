"""Fine-tuning from a checkpoint: its encoder, the shipped recipe, whatever is overridden, and a top-1 at the end."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vitkiln.engine.errors import DataError, RecipeError
from vitkiln.engine.evaluate.finetune import evaluate, tuned
from vitkiln.engine.evaluate.subject import open_method
from vitkiln.engine.recipe import load
from vitkiln.engine.train import run

SHAPE = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
DATA = ("data.categories=4", "data.instances=8", "data.fractal_size=32", "data.batch_size=8", "data.workers=0")
RUN = ("run.precision=fp32", "run.tensorboard=false", "run.knn=false")
QUICK = ("run.steps=2", "data.batch_size=8", "data.workers=0", *RUN)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Two steps of MoCo v3 on formulas, with a normalisation of its own."""
    shape = [*(f"encoder.{key}={value}" for key, value in SHAPE.items()), "encoder.mean=[0.5, 0.5, 0.5]"]
    keys = ("method.hidden=16", "method.output=8", "run.steps=2", "data.source=fractal")
    return run(load("mocov3", [*shape, *keys, *DATA, *RUN], short=True), tmp_path_factory.mktemp("pre") / "run")


@pytest.fixture(scope="module")
def tuning(pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "run"
    return evaluate(pretrained, None, QUICK, out), out


@pytest.fixture
def images(tmp_path):
    """Two classes that a glance tells apart, in two splits."""
    for split in ("train", "val"):
        for label, colour in enumerate([(250, 20, 20), (20, 20, 250)]):
            folder = tmp_path / "images" / split / f"{label}"
            folder.mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (40, 40), tuple(part + number for part in colour[:2]) + colour[2:]).save(
                    folder / f"{number}.png"
                )
    return tmp_path / "images"


def test_the_figures_say_what_was_done(tuning, pretrained):
    figures, out = tuning
    assert figures["protocol"] == "finetune"
    assert (figures["checkpoint"], figures["run"]) == (str(pretrained), str(out))
    assert (figures["step"], figures["images"], figures["classes"]) == (2, 8, 4)
    assert 0 <= figures["top1"] <= 100
    json.dumps(figures)


def test_the_encoder_is_the_checkpoints_and_the_rest_the_recipes(pretrained):
    recipe, shipped = tuned(pretrained, None), load("finetune", short=True)
    assert {key: getattr(recipe.encoder, key) for key in SHAPE} == SHAPE
    assert recipe.encoder.mean == (0.5, 0.5, 0.5)
    assert recipe.encoder.weights == str(pretrained / "checkpoints" / "step-0000002")
    assert (recipe.encoder.position, recipe.encoder.freeze_patch_embed) == ("learned", False)
    assert recipe.data.categories == 4
    assert (recipe.method, recipe.optim, recipe.run) == (shipped.method, shipped.optim, shipped.run)


def test_with_data_of_its_own_the_whole_recipe_is_used(pretrained, images):
    recipe, shipped = tuned(pretrained, images), load("finetune", [f"data.root={images}"])
    assert (recipe.data, recipe.run, recipe.optim) == (shipped.data, shipped.run, shipped.optim)
    assert recipe.short_reason is None


def test_overrides_win_over_the_checkpoint(pretrained):
    recipe = tuned(pretrained, None, ["encoder.image_size=48", "optim.lr=0.1", "encoder.drop_path=0.3"])
    assert (recipe.encoder.image_size, recipe.optim.lr, recipe.encoder.drop_path) == (48, 0.1, 0.3)


def test_training_begins_with_the_checkpoints_encoder(pretrained, tmp_path):
    still = evaluate(pretrained, None, [*QUICK, "optim.lr=1.0e-12", "optim.weight_decay=0.0"], tmp_path / "run")
    before = load_file(pretrained / "checkpoints" / "step-0000002" / "method.safetensors")
    for name, value in open_method(tmp_path / "run").method.backbone().state_dict().items():
        torch.testing.assert_close(value, before[f"encoder.{name}"], atol=1e-6, rtol=0)
    assert still["step"] == 2


def test_the_top1_is_that_of_the_trained_classifier_on_images_that_it_can_tell_apart(pretrained, images, tmp_path):
    plain = ("method.mixup=0.0", "method.cutmix=0.0", "method.randaugment=null", "method.erase=0.0")
    fast = ("run.steps=30", "optim.lr=0.1", "optim.layer_decay=1.0", "method.head_std=0.02")
    figures = evaluate(pretrained, images, [*QUICK, *plain, *fast], tmp_path / "run")
    assert (figures["top1"], figures["images"], figures["classes"]) == (100.0, 16, 2)


def test_the_same_call_goes_on_where_a_finished_run_is_refused(tuning, pretrained):
    with pytest.raises(RecipeError):
        evaluate(pretrained, None, QUICK, tuning[1])


def test_data_without_a_second_split_are_refused_before_anything_is_trained(pretrained, images, tmp_path):
    with pytest.raises(DataError, match=r"--data .*train: no second split; .* val/ or test/ beside train/"):
        evaluate(pretrained, images / "train", QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no checkpoint here"):
        evaluate(tmp_path, None)
