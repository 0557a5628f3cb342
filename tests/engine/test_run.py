"""Whole runs of a tiny recipe on formula-driven images: their end, their interruption, and what they leave."""

import json
import random
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vitkiln.engine.errors import DataError, Diverged, RecipeError, Stopped
from vitkiln.engine.evaluate import evaluate
from vitkiln.engine.export import export, metadata
from vitkiln.engine.plan_report import report
from vitkiln.engine.recipe import load
from vitkiln.engine.run_folder import RunFolder
from vitkiln.engine.train import run

TINY = {
    "method": {"name": "dilemma", "keep": 0.5, "hidden": 32, "output": 16},
    "encoder": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "depth": 2,
        "heads": 2,
        "freeze_patch_embed": True,
    },
    "data": {
        "source": "fractal",
        "categories": 4,
        "instances": 10,
        "fractal_size": 32,
        "fractal_points": 500,
        "batch_size": 8,
        "workers": 0,
    },
    "optim": {"lr": 1e-3, "warmup_epochs": 1.0},
    "run": {
        "epochs": 10.0,
        "steps": 12,
        "precision": "fp32",
        "log_every": 1,
        "checkpoint_every": 4,
        "device": "cpu",
    },
}


def recipe(folder, *overrides, **method):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, "method": {**TINY["method"], **method}}))
    return load(file, ["run.tensorboard=false", *overrides], short=False)


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]  # a kill may cut the last one
    return [json.loads(line) for line in lines]


def losses(folder):
    return [(line["step"], line["loss"], line["lr"]) for line in metrics(folder)]


def weights(folder):
    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "method.safetensors")


def status(folder):
    return json.loads((folder / "status.json").read_text())["state"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run to compare with."""
    folder = tmp_path_factory.mktemp("whole")
    return run(recipe(folder), folder / "run")


def test_a_run_leaves_what_it_promises(whole):
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "status.json",
        "train.log",
        "metrics.jsonl",
        "evaluation.json",
    }
    assert (whole / "samples" / "views.png").stat().st_size > 0
    assert (whole / "checkpoints" / "LATEST").read_text().strip() == "step-0000012"
    assert status(whole) == "finished"
    named = {
        "step",
        "epoch",
        "loss",
        "contrast",
        "detection",
        "detection_accuracy",
        "lr",
        "images_per_second",
    }
    assert set(metrics(whole)[0]) >= named | {"step_ms", "data_ms", "peak_memory_bytes"}
    assert [line["step"] for line in metrics(whole)] == list(range(1, 13))


def test_evaluation_compares_with_the_untrained_encoder(whole):
    result = json.loads((whole / "evaluation.json").read_text())
    assert set(result["top1"]) == set(result["untrained_top1"])
    assert "kNN (k=20) top-1" in (whole / "train.log").read_text()


def test_the_same_seed_gives_the_same_losses_bit_for_bit(whole, tmp_path):
    assert losses(run(recipe(tmp_path), tmp_path / "run")) == losses(whole)


def test_workers_change_nothing(whole, tmp_path):
    assert losses(run(recipe(tmp_path, "data.workers=2", "run.knn=false"), tmp_path / "run")) == losses(whole)


def test_another_seed_gives_other_losses(whole, tmp_path):
    other = run(recipe(tmp_path, "run.seed=1", "run.knn=false"), tmp_path / "run")
    assert losses(other) != losses(whole)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Loads the recipe of the method beside this file, which stops or poisons itself when the environment says so."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    file = tmp_path / "outside.yaml"
    method = {"name": "outside.interrupted", "hidden": 32, "output": 16}
    file.write_text(yaml.safe_dump({**TINY, "method": method}))
    return lambda *overrides: load(file, ["run.tensorboard=false", "run.knn=false", *overrides], short=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(outside, tmp_path, monkeypatch, number, workers):
    expected = run(outside(), tmp_path / "whole")
    monkeypatch.setenv("SIGNAL_AT", "6")  # in mid-epoch: an epoch has five steps
    monkeypatch.setenv("SIGNAL", str(int(number)))
    with pytest.raises(Stopped, match="stopped at step 7 and saved"):
        run(outside(), tmp_path / "run")
    assert status(tmp_path / "run") == "preempted"
    monkeypatch.delenv("SIGNAL_AT")
    resumed = run(outside(f"data.workers={workers}"), tmp_path / "run")
    assert losses(resumed) == losses(expected)
    for name, value in weights(expected).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_a_poisoned_weight_stops_the_run_and_is_named(outside, tmp_path, monkeypatch):
    monkeypatch.setenv("POISON_AT", "6")
    with pytest.raises(Diverged) as caught:
        run(outside(), tmp_path / "run")
    assert "step 7" in str(caught.value)
    assert "the parameter encoder.blocks.1.mlp.fc1.weight" in str(caught.value)
    assert "step-0000004" in str(caught.value)
    assert status(tmp_path / "run") == "diverged"


def test_a_changed_recipe_refuses_to_resume_and_shows_the_difference(outside, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNAL_AT", "6")
    with pytest.raises(Stopped):
        run(outside(), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"optim\.lr.*0\.001.*0\.002"):
        run(outside("optim.lr=0.002"), tmp_path / "run")


def test_a_finished_run_is_refused(whole, tmp_path):
    with pytest.raises(RecipeError, match="finished"):
        run(recipe(tmp_path), whole)


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(RecipeError, match="holds no run"):
        run(recipe(tmp_path), tmp_path / "photos")


def test_without_out_the_same_command_goes_on_with_the_interrupted_run(outside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGNAL_AT", "6")
    with pytest.raises(Stopped):
        run(outside())
    monkeypatch.delenv("SIGNAL_AT")
    (begun,) = (tmp_path / "runs" / "outside").iterdir()
    assert run(outside()).resolve() == begun
    assert status(begun) == "finished"


def test_nothing_is_made_when_the_data_is_too_small(tmp_path):
    with pytest.raises(DataError, match=r"data\.batch_size"):
        run(recipe(tmp_path, "data.batch_size=64"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_accumulation_makes_the_same_number_of_steps(tmp_path):
    folder = run(recipe(tmp_path, "run.accumulate=2", "run.knn=false"), tmp_path / "run")
    assert [line["step"] for line in metrics(folder)] == list(range(1, 13))


def test_a_budget_of_minutes_ends(tmp_path):
    folder = run(recipe(tmp_path, "run.minutes=0.02", "run.knn=false"), tmp_path / "run")
    assert metrics(folder)[-1]["seconds"] >= 1.2
    assert status(folder) == "finished"


def test_bf16_learns_nearly_the_same(whole, tmp_path):
    folder = run(recipe(tmp_path, "run.precision=bf16", "run.knn=false"), tmp_path / "run")
    for low, full in zip(metrics(folder), metrics(whole), strict=True):
        assert low["loss"] == pytest.approx(full["loss"], rel=0.05)
        assert low["loss"] != full["loss"]


def test_lars_and_clipping_train(tmp_path):
    folder = run(recipe(tmp_path, "optim.name=lars", "optim.clip=1.0", "run.knn=false"), tmp_path / "run")
    assert all(line["gradient_norm"] > 0 for line in metrics(folder))


def test_compiled_blocks_learn_the_same(whole, tmp_path):
    folder = run(recipe(tmp_path, "run.compile=true", "run.steps=2", "run.knn=false"), tmp_path / "run")
    assert metrics(folder)[0]["loss"] == pytest.approx(metrics(whole)[0]["loss"], abs=1e-4)


def command(file, out, *overrides):
    """The command of the shell, as another process runs it."""
    engine = [sys.executable, "-m", "vitkiln.engine.cli", "run", file, "run.knn=false", "run.tensorboard=false"]
    return [*engine, *overrides, "--out", out]


@pytest.mark.multi
def test_two_ranks_train_as_one(tmp_path):
    recipe(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    for start, out in (([], "one"), (launch, "two")):
        subprocess.run([*start, *command(tmp_path / "tiny.yaml", tmp_path / out)], check=True, capture_output=True)
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert status(tmp_path / "two") == "finished"


@pytest.mark.slow
def test_ten_kills_leave_the_weights_of_the_uninterrupted_run(tmp_path):
    """kill -9 at random moments of training and saving, resumed each time by the same command."""
    recipe(tmp_path)
    here, many = tmp_path / "tiny.yaml", ("run.steps=400", "run.checkpoint_every=3")
    subprocess.run(command(here, tmp_path / "whole", *many), check=True, capture_output=True)
    chance, killed_at = random.Random(0), []
    while len(killed_at) < 10:
        before = len(metrics(tmp_path / "run")) if killed_at else 0
        process = subprocess.Popen(command(here, tmp_path / "run", *many), stderr=subprocess.DEVNULL)
        while process.poll() is None and not is_past(tmp_path / "run", before + chance.randrange(1, 20)):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.wait()
        killed_at.append(len(metrics(tmp_path / "run")))
    assert 0 < killed_at[0] < killed_at[-1] < 400, killed_at
    subprocess.run(command(here, tmp_path / "run", *many), check=True, capture_output=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "run")[name], value), name


def is_past(folder, lines):
    file = folder / "metrics.jsonl"
    return file.exists() and file.read_bytes().count(b"\n") >= lines


def test_the_exported_encoder_has_timms_names_and_says_what_it_expects(whole, tmp_path):
    path = export(whole, tmp_path / "encoder.safetensors")
    state = load_file(path)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.mlp.fc2.bias", "norm.bias"} <= set(state)
    assert not [name for name in state if name.startswith(("head", "base", "module", "_orig_mod"))]
    about = metadata(path)
    assert (about["method"], about["step"]) == ("dilemma", "12")
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406]


def test_the_export_at_the_end_is_that_of_the_last_checkpoint(whole, tmp_path):
    again = load_file(export(whole / "checkpoints" / "step-0000012", tmp_path / "a.safetensors"))
    for name, value in load_file(whole / "export" / "encoder.safetensors").items():
        assert torch.equal(again[name], value), name


def test_an_exported_encoder_begins_another_run(whole, tmp_path):
    start = recipe(
        tmp_path, f"encoder.weights={whole / 'export' / 'encoder.safetensors'}", "run.steps=1", "run.knn=false"
    )
    run(start, tmp_path / "run")


def test_weights_of_another_size_are_refused_by_name(whole, tmp_path):
    path = whole / "export" / "encoder.safetensors"
    with pytest.raises(RecipeError, match=r"encoder\.weights=.*cls_token"):
        run(recipe(tmp_path, f"encoder.weights={path}", "encoder.width=64"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_knn_of_a_checkpoint_is_that_of_the_end_of_its_run(whole):
    told = json.loads((whole / "evaluation.json").read_text())
    assert evaluate(whole, None, workers=0)["top1"] == told["top1"]


def test_report_counts_what_is_there(tmp_path):
    told = report(recipe(tmp_path))
    assert (told["patches"], told["patches_seen"], told["negatives_per_anchor"]) == (16, 8, 7)
    assert told["effective_lr"] == pytest.approx(1e-3 * 8 / 256)
    assert told["budget"] == "12 steps"


def stay(begun):
    begun.set()
    time.sleep(60)


def test_workers_that_outlive_a_killed_run_do_not_keep_its_folder(tmp_path):
    folder, context = RunFolder(tmp_path / "run").hold(), get_context("fork")
    begun = context.Event()
    worker = context.Process(target=stay, args=(begun,))
    worker.start()
    try:
        assert begun.wait(20)
        folder.lock.close()  # as the system does when the run is killed
        RunFolder(tmp_path / "run").hold()
    finally:
        worker.kill()
        worker.join()
