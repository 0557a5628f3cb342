"""Which class holds the settings of a method that is named in a recipe."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .. import methods
from .sections import MethodSettings
from .strict import MISSING, Problem, choice

Found = tuple[type[MethodSettings] | None, list[Problem]]


def settings_of(values: Any) -> Found:
    """For the `method:` section of a recipe: our settings by file name, or anyone's by dotted module."""
    ours = methods.names()
    if isinstance(values, str):
        return nothing(Problem("method", values, f"must be a section; write method: {{name: {values}}}"))
    name = values.get("name", MISSING) if isinstance(values, dict) else MISSING
    if name is MISSING:
        return nothing(Problem("method.name", MISSING, f"missing; {choice('', ours)}"))
    if name in ours:
        module = import_module(f"{__package__}.{name}")
        by_values = getattr(module, "settings_for", None)
        return by_values(values) if by_values else (module.Settings, [])
    if not isinstance(name, str) or "." not in name:
        return nothing(Problem("method.name", name, choice(str(name), ours)))
    return settings_in(name)


def settings_in(module: str) -> Found:
    """The class `Settings` of a module outside this package, which may import torch."""
    try:
        found = getattr(import_module(module), "Settings", None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, what it imports is not
        text = f"no module {error.name}; install it, or set PYTHONPATH to the folder that holds it"
        return nothing(Problem("method.name", module, text))
    except ValueError:  # ".x" or "a..b"
        return nothing(Problem("method.name", module, "not the name of a module"))
    if not (isinstance(found, type) and issubclass(found, MethodSettings)):
        text = "the module must hold a class Settings(vitkiln.engine.settings.MethodSettings)"
        return nothing(Problem("method.name", module, text))
    return found, []


def nothing(problem: Problem) -> Found:
    """Not found, and why."""
    return None, [problem]
