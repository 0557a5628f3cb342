"""What pydantic found wrong with a recipe, told in the recipe's words: what the value must be, and the nearest key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .settings import Section
from .settings.strict import MISSING, Problem, choice, shown

BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
KINDS = {
    "float": "not a number",
    "int": "not a whole number",
    "finite": "must be finite",
    "bool": "must be true or false",
}
SWITCHES = {"on": "true", "yes": "true", "y": "true", "off": "false", "no": "false", "n": "false"}
Sections = Mapping[str, type[Section]]


def complaints(error: ValidationError, name: str, sections: Sections, values: Any) -> Iterator[Problem]:
    """One problem for each wrong key of the section `name`, whose values as written are `values`."""
    section, prefix = sections[name], f"{name}." if name else ""
    told = set()
    for detail in error.errors():
        key = str(detail["loc"][0]) if detail["loc"] else ""
        if key in told:  # one mistake may break every part of a union
            continue
        told.add(key)
        if detail["type"] == "conflict":
            yield from (problem._replace(key=prefix + problem.key) for problem in detail["ctx"]["found"])
        elif detail["type"] == "extra_forbidden":
            yield Problem(prefix + key, detail["input"], lost(key, name, sections))
        elif not key:
            keys = ", ".join(section.model_fields)
            yield Problem(name, detail["input"], f"must be a section with some of the keys {keys}")
        else:
            yield Problem(prefix + key, values.get(key, MISSING), explain(detail, section.model_fields[key].default))


def lost(key: str, name: str, sections: Sections) -> str:
    """Where an unknown key of the section `name`, or an unknown section, may belong."""
    own = list(sections[name].model_fields) if name in sections else list(sections)
    elsewhere = [f"{other}.{key}" for other, section in sections.items() if key in section.model_fields]
    found = get_close_matches(key, own, 1) or elsewhere or get_close_matches(key, own, 1, 0.5)
    kind = "key" if name in sections else "section"
    return f"no such {kind}; " + (f"did you mean {found[0]}?" if found else f"there are {', '.join(own)}")


def explain(detail: ErrorDetails, default: Any) -> str:
    """What a value must be."""
    kind, limits = detail["type"], detail.get("ctx", {})
    items = [part for part in detail["loc"] if isinstance(part, int)]
    item = f"item {items[0] + 1} " if items else ""
    if kind == "missing" and not items:
        return "missing"
    if kind == "literal_error":
        return choice(str(detail["input"]), re.findall(r"'([^']*)'", limits["expected"]))
    if kind in BOUNDS:
        limit, words = BOUNDS[kind]
        return f"{item}must be {words} {shown(limits[limit])}"
    if items or kind.startswith(("tuple", "too_")):
        size = f"{len(default)} " if isinstance(default, tuple) else ""
        return f"must be a list of {size}numbers{example(default)}"
    return wanted(kind, detail) + example(default)


def wanted(kind: str, detail: ErrorDetails) -> str:
    """What a value of another type should have been."""
    given = shown(detail["input"])
    if kind == "bool_type" and given.lower() in SWITCHES:
        return f"must be true or false; did you mean {SWITCHES[given.lower()]}?"
    if kind == "int_type" and isinstance(detail["input"], float) and detail["input"].is_integer():
        return f"must be written as a whole number, {given}"
    if kind == "string_type":
        return f"must be text; quote it: '{given}'"
    if kind == "string_pattern_mismatch":
        return f"must match the pattern {detail['ctx']['pattern']}"
    return KINDS.get(kind.split("_")[0], detail["msg"])


def example(default: Any) -> str:
    """The default, where it shows how a number or a list is written."""
    plain = isinstance(default, int | float | tuple) and not isinstance(default, bool)
    return f"; for example {shown(default)}" if plain else ""
