import os
import shutil
import subprocess
import sys

import pytest

from vitkiln.kernels._shared.native import NotBuilt, fingerprint, library

CALL = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
import torch
from vitkiln.kernels.fractals import native_state, search_fractals, search_state
assert native_state("fractals").status in ("not tried", "off"), native_state("fractals")
found = search_fractals(search_state(1), 1, 32, 100)
print(int(found.lit[0]), native_state("fractals").status)
"""
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not found")


def start(cache, **variables):
    """A process that calls a native operator for the first time."""
    environment = {**os.environ, "VITKILN_CACHE": str(cache), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-c", CALL], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.split(), err


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache that two processes filled at once, and what they said."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, [finished(process) for process in [start(cache), start(cache)]]


@needs_compiler
def test_two_processes_at_once_build_one_library(built):
    cache, said = built
    assert {out[1] for out, _ in said} == {"built"}
    assert sum("built fractals/operators.cpp" in err for _, err in said) == 1
    assert [file.suffix for file in sorted((cache / "native").iterdir())] == [".so", ".lock"]


@needs_compiler
def test_another_process_finds_what_was_built_and_says_nothing(built):
    out, err = finished(start(built[0]))
    assert out[1] == "built"
    assert not err


@needs_compiler
def test_what_was_built_answers_as_the_reference(built):
    off, _ = finished(start(built[0], VITKILN_NATIVE="0"))
    assert off == [built[1][0][0][0], "off"]


def test_without_a_compiler_the_reference_answers_and_the_reason_is_told(tmp_path):
    out, err = finished(start(tmp_path, CXX="no-such-compiler"))
    assert out[1] == "missing"
    assert err.count("\n") == 1
    assert "no-such-compiler" in err


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("VITKILN_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(NotBuilt, match="failed"):
        library("fractals")
    assert [file.name for file in (tmp_path / "native").iterdir()] == ["fractals.lock"]


def test_sources_that_changed_are_built_anew(tmp_path):
    file = tmp_path / "a.cpp"
    file.write_text("int a;")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitkiln.kernels._shared.native.SOURCES", tmp_path)
        first = fingerprint([file], ["true"])
        (tmp_path / "b.h").write_text("int b;")
        assert fingerprint([file], ["true"]) != first
        assert fingerprint([file], ["true", "-O2"]) != fingerprint([file], ["true"])
