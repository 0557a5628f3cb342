"""What is wrong with a recipe, one line a problem: where, which key, its value, and what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .settings import Section
from .settings.strict import shown

MISSING = object()
BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
SWITCHES = {"on": "true", "yes": "true", "y": "true", "off": "false", "no": "false", "n": "false"}


class Problem(NamedTuple):
    """One line; `value` is MISSING where there is none to show."""

    key: str
    value: Any
    text: str

    def told(self, place: str) -> str:
        value = "" if self.value is MISSING else f"={shown(self.value)}"
        return f"{place}{self.key}{value}: {self.text}"


def complaints(
    error: ValidationError, name: str, section: type[Section], sections: Mapping[str, type[Section]]
) -> Iterator[Problem]:
    """Pydantic's errors about the section called `name`, one for each key. `sections` are searched for lost keys."""
    told = set()
    for detail in error.errors():
        key = key_of(detail, section)
        if key in told:  # one mistake may break each part of a union
            continue
        told.add(key)
        if detail["type"] == "conflict":
            for inner, text in detail["ctx"]["found"]:
                full = f"{name}.{inner}" if name else inner
                yield Problem(full, MISSING, text)
        elif detail["type"] == "extra_forbidden":
            yield Problem(f"{name}.{key}", detail["input"], lost(key, name, sections))
        elif not key:
            yield Problem(name, detail["input"], f"must be a section of keys: {', '.join(section.model_fields)}")
        else:
            yield Problem(f"{name}.{key}", MISSING, explain(detail, section, key))


def key_of(detail: ErrorDetails, section: type[Section]) -> str:
    """The key, without list items and the branches of unions."""
    loc = detail["loc"]
    if detail["type"] == "extra_forbidden" or (loc and loc[0] in section.model_fields):
        return str(loc[0])
    return ""


def lost(key: str, name: str, sections: Mapping[str, type[Section]]) -> str:
    """Where an unknown key of section `name` may belong."""
    own = list(sections[name].model_fields) if name in sections else list(sections)
    kind = "key" if name in sections else "section"
    near = get_close_matches(key, own, 1)
    elsewhere = [f"{other}.{key}" for other, section in sections.items() if key in section.model_fields]
    if near or elsewhere:
        return f"no such {kind}; did you mean {(near or elsewhere)[0]}?"
    return f"no such {kind}; there are {', '.join(own)}"


def explain(detail: ErrorDetails, section: type[Section], key: str) -> str:
    """What the value must be."""
    kind, given, default = detail["type"], detail["input"], section.model_fields[key].default
    limits = detail.get("ctx", {})
    item = item_of(detail)
    if kind == "literal_error":
        return choice(str(given), re.findall(r"'([^']*)'", limits["expected"]))
    if kind in BOUNDS:
        limit, words = BOUNDS[kind]
        return f"{item}must be {words} {shown(limits[limit])}"
    if kind == "missing" and not item:
        return "missing"
    if item or kind.startswith(("tuple", "too_")):
        return f"must be a list of {len(default)} numbers; for example {shown(default)}"
    return wanted(kind, given) + example(default, kind)


def item_of(detail: ErrorDetails) -> str:
    """Which item of a list is meant, counted from one; nothing for a single value."""
    numbers = [part for part in detail["loc"] if isinstance(part, int)]
    return f"item {numbers[0] + 1} " if numbers else ""


def choice(given: str, names: list[str]) -> str:
    """One of a few words."""
    near = get_close_matches(given.lower(), names, 1, 0.4) if len(names) > 1 else []
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"must be {' or '.join(names)}{hint}" if len(names) < 3 else f"must be one of {', '.join(names)}{hint}"


def wanted(kind: str, given: Any) -> str:
    """What a value of another type should have been."""
    if kind.startswith("float"):
        return "not a number"
    if kind.startswith("finite"):
        return "must be finite"
    if kind.startswith("int"):
        return "not a whole number"
    if kind.startswith("bool"):
        meant = SWITCHES.get(str(given).lower())
        return "must be true or false" + (f"; did you mean {meant}?" if meant else "")
    if kind.startswith("string"):
        return f"must be text; quote it: '{shown(given)}'"
    return kind.replace("_", " ")


def example(default: Any, kind: str) -> str:
    """The default, where it is a number that shows the form."""
    if isinstance(default, bool) or not isinstance(default, int | float) or kind.startswith(("bool", "string")):
        return ""
    return f"; for example {default:g}"
