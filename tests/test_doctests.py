"""Every example in a docstring of the package runs."""

import doctest
import importlib
import pkgutil

import pytest

import vitkiln.engine
import vitkiln.kernels


def modules() -> list[str]:
    found = [
        module.name
        for package in (vitkiln.kernels, vitkiln.engine)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return [name for name in found if not name.endswith(".kernel")]  # Triton need not be installed


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
