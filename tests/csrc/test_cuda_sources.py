"""CUDA sources compile, and what they need stays within bounds, on any machine with nvcc."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not found")
def test_the_cuda_sources_compile_for_both_architectures_without_spills():
    command = [sys.executable, "-m", "benchmarks.kernels.native_resources"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {"sm_80", "sm_90"} <= set(ran.stdout.split())
