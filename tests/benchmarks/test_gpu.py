"""What will be measured on a GPU: every provider is set up, and computes the same, where there is none."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "engine", "kernels", "recipes")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy that nobody installed, with a bare environment's way of finding it."""
    copy = tmp_path_factory.mktemp("checkout")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def script(checkout, *arguments):
    command = ["bash", checkout / "benchmarks" / "gpu.sh", *arguments]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def dry_run(checkout):
    return script(checkout, "--dry-run")


def test_every_measurement_is_set_up_and_every_provider_agrees(dry_run):
    assert dry_run.returncode == 0, dry_run.stdout + dry_run.stderr
    count, failed = re.search(r"^(\d+) measurements, (\d+) of them failed", dry_run.stdout, re.MULTILINE).groups()
    assert int(count) > 75
    assert int(failed) == 0


@pytest.mark.parametrize(
    "name",
    [
        "copy",
        "matmul",
        "attention",
        "add_layer_norm",
        "linear_gelu",
        "patch_embed",
        "sample_tokens",
        "place_tokens",
        "info_nce",
        "nt_xent",
        "sup_con",
        "n_pair",
        "relation_loss",
        "detection_loss",
        "normalized_pixel_mse",
        "prototype_cross_entropy",
        "dilemma step",
        "dilemma ablation",
        "dilemma graph",
        "dilemma end to end",
        "mae end to end",
        "fractal end to end",
        "augment_views",
        "crop_views bilinear",
        "rand_augment",
        "decode",
    ],
)
def test_a_dry_run_has_every_measurement_of_the_plan(dry_run, name):
    assert re.search(rf"^{name} ", dry_run.stdout, re.MULTILINE)


def test_a_dry_run_writes_nothing(dry_run, checkout):
    def records(root):
        return {file.name: file.read_text() for file in (root / "benchmarks" / "records").glob("*")}

    assert dry_run.returncode == 0
    assert "gpu.jsonl" not in records(checkout) or records(checkout) == records(ROOT)


def test_a_provider_that_computes_something_else_is_found(checkout):
    op = checkout / "kernels" / "place_tokens" / "op.py"
    text = op.read_text()
    try:
        op.write_text(f"{text}\nright = place_tokens\ndef place_tokens(*given):\n    return 1.01 * right(*given)\n")
        done = script(checkout, "--dry-run", "--only", "place_tokens")
    finally:
        op.write_text(text)
    assert done.returncode == 1
    assert "ERROR Disagrees: differs from eager by 0.01 of the norm" in done.stdout
    assert "compiled                   ERROR" not in done.stdout


def test_an_unknown_part_is_refused_with_the_names_of_all(checkout):
    done = script(checkout, "--dry-run", "--only", "atention")
    assert done.returncode == 2
    assert "'atention'; must be of ceilings, attention" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_says_what_is_missing():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "PyTorch sees no CUDA device; --dry-run" in done.stderr


RATES = """
import json, sys
from pathlib import Path
from benchmarks.gpu import record
record.RECORDS = Path(sys.argv[1])
limits = record.limits(Path(sys.argv[2]), "X")
print(json.dumps([limits, record.roofline(0, 0, 1.0, limits), record.roofline(2000, 1000, 4.0, limits)]))
"""


def test_the_roofline_is_what_this_gpu_reached_last(tmp_path):
    side = {"M": 8192, "K": 8192, "N": 8192}
    common = {"suite": "ceilings", "gpu": "X", "median": 1.0, "bytes": 0, "flops": 0}
    older, newer = tmp_path / "older.jsonl", tmp_path / "newer.jsonl"
    rows = [
        {**common, "name": "copy", "shape": {}, "bytes": 500},
        {**common, "name": "copy", "shape": {}, "bytes": 9000, "gpu": "Y"},
        {**common, "name": "matmul", "shape": side, "flops": 2000},
        {**common, "name": "matmul", "shape": {**side, "K": 1}, "flops": 7},
        {"suite": "ceilings", "name": "copy", "gpu": "X", "error": "lost"},
    ]
    older.write_text("".join(json.dumps(row) + "\n" for row in rows))
    newer.write_text(json.dumps({**rows[0], "bytes": 1000}) + "\n")
    done = subprocess.run([sys.executable, "-c", RATES, older, newer], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[1e6, 2e6], None, 0.5]  # 2,000 bytes at 1,000 a ms take 2 of 4 ms


def test_appended_lines_are_whole_and_in_order(tmp_path):
    file = tmp_path / "new" / "gpu.jsonl"
    program = "import sys; from pathlib import Path; from benchmarks.gpu import record; file = Path(sys.argv[1]); "
    program += "[record.append(file, {'n': n}) for n in range(3)]; print(record.read(file))"
    done = subprocess.run([sys.executable, "-c", program, file], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[{'n': 0}, {'n': 1}, {'n': 2}]\n"
    assert file.read_text().count("\n") == 3


@pytest.fixture(scope="module")
def timing():
    found = importlib.util.spec_from_file_location("timing", ROOT / "benchmarks" / "gpu" / "timing.py")
    module = importlib.util.module_from_spec(found)
    sys.modules["timing"] = module
    found.loader.exec_module(module)
    return module


def test_repetitions_follow_the_warm_up_and_each_has_its_own_number(timing):
    seen = []
    found = timing.timed(seen.append, torch.device("cpu"), seconds=0.0, fewest=5, warmup=2)
    assert seen == [0, 1, *range(3), *range(5)]  # warm-up, estimate, measurement
    assert (found.n, found.warmup) == (5, 2)


def test_quick_calls_are_repeated_up_to_a_limit_and_quantiles_are_in_order(timing):
    found = timing.timed(lambda index: sum(range(100 * (index % 7))), torch.device("cpu"), seconds=10.0)
    assert found.n == 200
    assert 0 < found.p20 <= found.median <= found.p80


def test_times_are_milliseconds(timing):
    found = timing.timed(lambda index: time.sleep(0.02), torch.device("cpu"), seconds=0.0, fewest=3, warmup=0)
    assert 20 <= found.median < 2000
    assert 20 <= found.host < 2000
