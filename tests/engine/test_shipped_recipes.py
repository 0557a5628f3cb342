"""Every shipped recipe, made tiny: it trains, and a run that was interrupted ends as one that was not, bit for bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from vitkiln.engine.recipe import load, shipped
from vitkiln.engine.train import run

TINY = [
    "encoder.image_size=32", "encoder.patch_size=8", "encoder.width=32", "encoder.depth=2", "encoder.heads=2",
    "data.source=fractal", "data.root=null", "data.categories=4", "data.instances=8", "data.fractal_size=32",
    "data.fractal_points=500", "data.batch_size=8", "data.workers=0",
    "run.steps=6", "run.checkpoint_every=3", "run.log_every=1", "run.precision=fp32", "run.device=cpu",
    "run.tensorboard=false", "run.knn=false",
]  # fmt: skip
SMALLER = {  # whatever the method's settings have of these
    "hidden": 32, "bottleneck": 16, "output": 16, "local_crops": 2, "local_size": 16,
    "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


def tiny(name):
    method = load(name, short=True).method
    sizes = [f"method.{key}={value}" for key, value in SMALLER.items() if key in type(method).model_fields]
    return load(name, [*TINY, *sizes], short=True)


def lines(folder):
    kept = ("step", "loss", "lr", "gradient_norm")
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in kept} for line in read if "loss" in line]


@pytest.mark.parametrize("name", shipped())
def test_an_interrupted_run_ends_as_an_uninterrupted_one(name, tmp_path):
    recipe, out = tiny(name), tmp_path / "run"
    run(recipe, out)
    whole, last = lines(out), load_file(out / "checkpoints" / "step-0000006" / "method.safetensors")
    moments = load_file(out / "checkpoints" / "step-0000006" / "optimizer.safetensors")
    assert [line["step"] for line in whole] == list(range(1, 7))
    shutil.rmtree(out / "checkpoints" / "step-0000006")
    (out / "status.json").write_text(json.dumps({"state": "failed"}))
    torch.manual_seed(1234)  # whatever has happened in between
    run(recipe, out)
    assert lines(out) == whole
    again = load_file(out / "checkpoints" / "step-0000006" / "method.safetensors")
    assert all(torch.equal(again[key], value) for key, value in last.items())
    later = load_file(out / "checkpoints" / "step-0000006" / "optimizer.safetensors")
    assert all(torch.equal(later[key], value) for key, value in moments.items() if key != "random_state")


@pytest.mark.parametrize("name", shipped())
def test_the_short_form_is_short(name):
    recipe = load(name, short=True)
    assert recipe.run.steps is not None
    assert recipe.run.precision == "fp32"
    assert recipe.data.source == "fractal"
