"""The checkout's folders are importable only as vitkiln.*; every test starts from the same random state."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
os.environ.setdefault("VITKILN_CACHE", str(Path(home) / "vitkiln"))  # tests that move the cache compile nothing anew

settings.register_profile("vitkiln", deadline=None, derandomize=True, database=None)  # a busy machine is no failure
settings.load_profile("vitkiln")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
