"""DINO as a run: its recipes, its mistakes, its resuming, and several ranks."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml

from vitkiln.engine import checkpoint
from vitkiln.engine.errors import RecipeError
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import dino
from vitkiln.engine.train import Trainer, train_step

ENCODER = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "position": "learned",
    "init": "truncated_normal",
}
SMALL = {"local_crops": 2, "local_size": 16, "hidden": 32, "bottleneck": 16, "output": 24}

RECIPE = {
    "method": {"name": "dino", "momentum": 0.9, **SMALL},
    "encoder": {**ENCODER, "drop_path": 0.1},
    "data": {
        "source": "fractal",
        "categories": 2,
        "instances": 12,
        "fractal_size": 32,
        "fractal_points": 200,
        "batch_size": 6,
        "workers": 0,
    },
    "optim": {
        "lr": 0.01,
        "weight_decay": 0.04,
        "final_weight_decay": 0.4,
        "decay_1d": False,
        "clip": 3.0,
        "clip_per": "tensor",
    },
    "run": {"epochs": 2.0, "precision": "fp32", "device": "cpu"},
}


def recipe(folder, *overrides):
    file = folder / "x.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return load(file, overrides, short=False)


def steps(trainer, count):
    """Losses of the next steps."""
    loader = trainer.loader()
    found = [train_step(trainer, [micro]).total.item() for micro in islice(loader, count)]
    loader.close()
    return found


def test_a_run_that_is_resumed_goes_on_bit_for_bit(tmp_path):
    device = torch.device("cpu")
    whole, first, second = (Trainer(recipe(tmp_path), device) for _ in range(3))
    expected = steps(whole, 8)  # the last layer learns from the fifth on
    seen = steps(first, 3)
    saved = checkpoint.save(tmp_path, 3, first.method, first.optimizer, {}, "")
    second.pace.step = checkpoint.restore(saved, second.method, second.optimizer)["step"]
    assert seen + steps(second, 5) == expected
    for name, value in whole.method.state_dict().items():
        assert torch.equal(second.method.state_dict()[name], value), name


MISTAKES = {
    "method.local_size=40": "method.local_size=40: must be at most encoder.image_size=32",
    "method.local_size=20": "method.local_size=20: must be a multiple of encoder.patch_size=8; the nearest is 16",
    "method.output=0": "method.output=0: must be at least 1",
    "method.teacher_temperature=0": "method.teacher_temperature=0: must be more than 0",
    "method.momentum=1.1": "method.momentum=1.1: must be at most 1",
    "method.center_momentum=-1": "method.center_momentum=-1: must be at least 0",
    "method.local_crops=-1": "method.local_crops=-1: must be at least 0",
    "method.local_scale=[0.5, 0.1]": "method.local_scale=[0.5, 0.1]: must be two shares of the area, the smaller first",
    "method.centering=sinkhorm": "method.centering=sinkhorm: must be mean or sinkhorn; did you mean sinkhorn?",
    "method.blur=[1, 0]": "method.blur=[1, 0]: must be a list of 3 numbers",
    "method.jitter=[0.4, 0.4, 0.2, 0.6]": "method.jitter=[0.4, 0.4, 0.2, 0.6]: the last, hue, must be at most 0.5",
    "data.batch_size=1": "data.batch_size=1: must be at least 2 for dino",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_setting_that_cannot_be_is_told_in_one_line(tmp_path, override):
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, override)
    assert MISTAKES[override] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_small_crops_their_size_does_not_matter(tmp_path):
    assert recipe(tmp_path, "method.local_crops=0", "method.local_size=20").method.local_crops == 0


def test_the_recipe_holds_the_published_settings():
    found = load("dino", ["data.root=/imagenet"])
    kept = {"local_crops": 8, "local_size": 96, "output": 65_536, "freeze_last_layer": 1.0}
    assert found.method.model_dump() == {**dino.Settings().model_dump(), **kept}
    assert found.encoder.shape == (384, 12, 6)
    assert (found.encoder.position, found.encoder.init, found.encoder.drop_path) == ("learned", "truncated_normal", 0.1)
    assert (found.data.batch_size, found.optim.lr, found.optim.lr_scale, found.optim.min_lr) == (512, 5e-4, 256, 1e-6)
    assert (found.optim.weight_decay, found.optim.final_weight_decay, found.optim.decay_1d) == (0.04, 0.4, False)
    assert (found.optim.clip, found.optim.clip_per, found.optim.schedule) == (3.0, "tensor", "cosine_inclusive")
    assert (found.optim.warmup_epochs, found.run.epochs) == (10, 100)


def test_the_recipe_of_dilemma_over_dino_differs_by_what_dilemma_adds():
    base, over = (load(name, ["data.root=/imagenet"]) for name in ("dino", "dilemma_dino"))
    added = {"name": "dilemma", "base": "dino", "keep": 0.25, "wrong_probability": 0.2, "weight": 1.0}
    assert over.method.model_dump() == {**base.method.model_dump(), **added}
    assert (over.encoder, over.data, over.optim, over.run) == (base.encoder, base.data, base.optim, base.run)


@pytest.mark.multi
def test_two_ranks_equal_one_with_the_joined_batch(tmp_path):
    script = Path(__file__).with_name("dino_ranks.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for start, out in (([sys.executable], "one.pt"), (launch, "two.pt")):
        subprocess.run([*start, script, tmp_path / out], check=True, capture_output=True)
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=1e-7, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
