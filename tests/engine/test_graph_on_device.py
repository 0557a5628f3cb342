"""With and without a CUDA graph a run has the same losses and weights, to the bit."""

import json
import warnings

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vitkiln.engine.errors import Stopped
from vitkiln.engine.recipe import load
from vitkiln.engine.train import run

pytestmark = pytest.mark.gpu
STEPS = 20
METHODS = {
    "mocov3": {"hidden": 64, "output": 32},
    "dino": {"hidden": 64, "bottleneck": 32, "output": 64, "local_crops": 2, "local_size": 32, "freeze_last_layer": 1.0,
             "warmup_teacher_epochs": 1.5, "warmup_teacher_temperature": 0.02},
    "dilemma": {"hidden": 64, "output": 32, "keep": 0.5},
    "mae": {"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 2},
    "supervised": {"randaugment": None},
}  # fmt: skip
RECIPE = {
    "encoder": {"image_size": 64, "patch_size": 16, "width": 64, "depth": 2, "heads": 2, "drop_path": 0.1},
    "data": {"source": "fractal", "categories": 4, "instances": 40, "fractal_size": 64, "fractal_points": 500,
             "batch_size": 16, "workers": 0},
    "optim": {"lr": 1e-3, "warmup_epochs": 0.2, "weight_decay": 0.04, "final_weight_decay": 0.4, "clip": 3.0},
    "run": {"epochs": 2.0, "steps": STEPS, "log_every": 1, "checkpoint_every": 10, "device": "cuda",
            "tensorboard": False, "knn": False},
}  # fmt: skip


@pytest.fixture
def taken(tmp_path):
    """Losses and last weights of a run, its metrics being those of every step."""

    def of(name, *overrides, folder=None, resume="auto"):
        file, out = tmp_path / f"{name}.yaml", tmp_path / (folder or "-".join(["run", *overrides]))
        file.write_text(yaml.safe_dump({**RECIPE, "method": {"name": name, **METHODS[name]}}))
        run(load(file, overrides, short=False), out, resume)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        last = out / "checkpoints" / f"step-{STEPS:07d}"
        log = (out / "train.log").read_text()
        return [line["loss"] for line in lines if "loss" in line], load_file(last / "method.safetensors"), log

    return of


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize(
    "more", [[], ["run.accumulate=2"], ["run.compile=true"]], ids=["plain", "accumulate", "compile"]
)
@pytest.mark.parametrize("name", METHODS)
def test_a_recorded_run_equals_a_written_one(name, more, taken):
    losses, weights, _ = taken(name, *more)
    again, recorded, log = taken(name, *more, "run.cuda_graph=true")
    assert "a step is one CUDA graph" in log
    assert "kernel by kernel" not in log
    assert again == losses
    assert same(recorded, weights)


@pytest.mark.parametrize("optimiser", [["optim.name=lars"], ["optim.backend=torch"], ["optim.name=sgd"]])
def test_every_optimiser_can_be_recorded(optimiser, taken):
    constant = [*optimiser, "optim.final_weight_decay=null"]
    losses, weights, _ = taken("mocov3", *constant)
    again, recorded, log = taken("mocov3", *constant, "run.cuda_graph=true")
    assert "a step is one CUDA graph" in log
    assert again == losses
    assert same(recorded, weights)


@pytest.mark.parametrize("later", ["true", "false"])
def test_a_recorded_run_that_is_stopped_goes_on_either_way(later, taken, monkeypatch):
    from vitkiln.engine.signals import Signals

    losses, weights, _ = taken("dino")
    stopping = Signals.stopping
    monkeypatch.setattr(Signals, "stopping", lambda self, device, step, every: step == 13)
    with pytest.raises(Stopped):
        taken("dino", "run.cuda_graph=true", folder="stopped")
    monkeypatch.setattr(Signals, "stopping", stopping)
    again, recorded, _ = taken("dino", f"run.cuda_graph={later}", folder="stopped")
    assert again == losses
    assert same(recorded, weights)


def test_pytorchs_optimiser_warns_of_nothing(taken):
    """It would where it can be recorded and is not, and cannot be where it is."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        taken("mae", "run.cuda_graph=true", "optim.backend=torch", "optim.final_weight_decay=null")
    assert not [warning for warning in said if "capturable" in str(warning.message)]
