"""The gates on compiled kernels: one is compiled for real, and each gate is shut by what it is for."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

from vitkiln.kernels._shared.specimen import Specimen

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def resources() -> ModuleType:
    found = importlib.util.spec_from_file_location("resources", ROOT / "benchmarks" / "kernels" / "resources.py")
    module = importlib.util.module_from_spec(found)
    sys.modules["resources"] = module
    found.loader.exec_module(module)
    return module


def test_a_kernel_compiled_without_a_gpu_passes_every_gate():
    command = [sys.executable, "-m", "benchmarks.kernels.resources", "--only", "to_position bf16", "--arch", "90"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "place_tokens to_position bf16" in ran.stdout


def test_every_kernel_is_on_record_for_every_architecture(resources):
    for known in resources.json.loads(resources.RECORD.read_text()).values():
        names = {f"{specimen.name} sm_{arch}" for specimen in resources.specimens() for arch in (80, 90)}
        assert names == set(known)


GOOD = {
    "registers": 100,
    "stack": 0,
    "shared": 1000,
    "spills": 0,
    "products": 8,
    "warpgroup_products": 8,
    "wide_loads": 4,
    "atomics": 0,
}


@pytest.mark.parametrize(
    ("arch", "change", "fault"),
    [
        (80, {}, None),
        (80, {"stack": 8}, "stack"),
        (90, {"spills": 1}, "spills"),
        (80, {"shared": 170_000}, "shared memory"),
        (80, {"products": 0}, "tensor cores"),
        (90, {"warpgroup_products": 0}, "tensor cores"),
        (90, {"wide_loads": 0}, "128 bits"),
        (90, {"atomics": 1}, "atomic"),
        (80, {"registers": 111}, "registers: 100 before, 111 now"),
        (80, {"registers": 110}, None),
        (80, {"shared": 1200}, "shared: 1000 before, 1200 now"),
    ],
)
def test_each_gate_is_shut_by_what_it_is_for(resources, arch, change, fault):
    specimen = Specimen("any", None, {}, {}, {}, tensor_cores=True)
    found = resources.faults(specimen, arch, replace(resources.Usage(**GOOD), **change), GOOD)
    if fault is None:
        assert found == []
    else:
        assert any(fault in text for text in found)


def test_a_kernel_without_a_record_is_judged_by_the_gates_alone(resources):
    specimen = Specimen("any", None, {}, {}, {}, tensor_cores=True)
    assert resources.faults(specimen, 80, resources.Usage(**GOOD), None) == []
