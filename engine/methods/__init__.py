"""One file per pretext method, found by its name. A method turns a batch into losses."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .method import Method


def names() -> list[str]:
    """Every method that has a file here."""
    apart = {"__init__", "method"}
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in apart)


def find(name: str) -> type[Method]:
    """`dilemma` is the file beside this one; `my_lab.my_method` is anyone's module."""
    from .method import Method

    path = name if "." in name else f"{__name__}.{name}"
    module = import_module(path)
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    return found
