"""Comparisons of whole steps keep up with the methods that they take apart."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"), [("algebra", "view by view"), ("gmml", "corruption, ms"), ("step", "dense / sparse")]
)
def test_a_comparison_runs(name, told):
    command = [sys.executable, "-m", f"benchmarks.methods.{name}", "--batch", "2", "--rounds", "2"]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert told in " ".join(ran.stdout.split())
