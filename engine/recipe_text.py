"""What is written in a recipe file and on the command line, each key with the place where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import RecipeError

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]
PLAIN = {  # YAML 1.2's core schema, less its octal and hexadecimal numbers: the pattern, and how such a value begins
    "bool": ("true|false", "tf"),
    "null": ("~|null|", ("~", "n", "")),
    "int": ("[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
}


def resolvers() -> Resolvers:
    """PLAIN as PyYAML wants it: by first letter."""
    found: Resolvers = {}
    for name, (pattern, beginnings) in PLAIN.items():
        for letter in beginnings:
            found.setdefault(letter, []).append((f"tag:yaml.org,2002:{name}", re.compile(f"(?:{pattern})$")))
    return found


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: 1e-3 is a number, and on, off, yes, no, 010 and 1:30 are text."""

    yaml_implicit_resolvers = resolvers()


class Dumper(yaml.SafeDumper):
    """Writes what Loader reads, with lists in one line."""

    yaml_implicit_resolvers = resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


@dataclass
class Written:
    """Sections as nested dictionaries, and where each dotted key was written."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)  # "data.root" -> "recipes/x.yaml:14: "
    removed: list[str] = field(default_factory=list)

    def leaves(self, values: dict[str, Any] | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every dotted key with its value, sections that hold nothing included."""
        for key, value in (self.values if values is None else values).items():
            if isinstance(value, dict) and value:
                yield from self.leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    def set(self, key: str, value: Any, place: str) -> None:
        """Put a value under a dotted key; a mapping goes in key by key."""
        if isinstance(value, dict) and value:
            for name, part in value.items():
                self.set(f"{key}.{name}", part, place)
            return
        *sections, last = key.split(".")
        values = self.values
        for section in sections:
            if not isinstance(values.get(section), dict):
                values[section] = {}
            values = values[section]
        values[last] = value
        self.places[key] = place

    def remove(self, key: str, place: str) -> None:
        """Forget a key, so that its default holds."""
        *sections, last = key.split(".")
        values: Any = self.values
        for section in sections:
            values = values.get(section) if isinstance(values, dict) else None
        if isinstance(values, dict):
            values.pop(last, None)
        self.places[key] = place
        self.removed.append(key)

    def place(self, key: str, default: str) -> str:
        """Where a key was written, or the first one below it."""
        below = (place for other, place in self.places.items() if other.startswith(f"{key}."))
        return self.places.get(key) or next(below, default)

    def over(self, below: Written) -> Written:
        """This laid over another; neither is changed."""
        merged = Written()
        for layer in (below, self):
            for key, value in layer.leaves():
                if value != {}:
                    merged.set(key, value, layer.places.get(key, ""))
            merged.places |= layer.places
        return merged


def read(file: Path, shown: str) -> tuple[Written, Written]:
    """A recipe file and its `short:` section. RecipeError with the line where it is not a mapping of YAML."""
    try:
        loader = Loader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise RecipeError(f"{shown}:{line_of(error)}: not YAML: {told(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{shown}: not YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise RecipeError(f"{shown}: cannot be read: {error.strerror}") from None
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{shown}: holds no sections; a recipe begins with `method:`")
    whole = Written()
    whole.values = without_empty(walk(loader, node, shown, "", whole.places))
    in_short = whole.values.pop("short", {})
    if not isinstance(in_short, dict):
        raise RecipeError(f"{whole.places['short']}short: must hold sections, as the recipe does")
    short = Written(without_empty(in_short))
    for key, place in list(whole.places.items()):
        if key.startswith("short."):
            short.places[key.removeprefix("short.")] = f"{place}short."
            del whole.places[key]
    return whole, short


def without_empty(sections: dict[str, Any]) -> dict[str, Any]:
    """A section with nothing under it is one without keys, not null."""
    return {name: {} if section is None else section for name, section in sections.items()}


def walk(loader: Loader, node: yaml.MappingNode, shown: str, prefix: str, places: dict[str, str]) -> dict[str, Any]:
    """The mapping's values; notes the line of each key."""
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in found:
            raise RecipeError(f"{shown}:{line}: {prefix}{key}: given a second time; keep one of the two")
        places[f"{prefix}{key}"] = f"{shown}:{line}: "
        if isinstance(value_node, yaml.MappingNode) and prefix.count(".") < 8:  # an anchor may hold itself
            found[key] = walk(loader, value_node, shown, f"{prefix}{key}.", places)
        else:
            try:
                found[key] = loader.construct_object(value_node, deep=True)
            except yaml.MarkedYAMLError as error:
                raise RecipeError(f"{shown}:{line}: {prefix}{key}: {told(error)}") from None
    return found


def override(written: Written, text: str) -> str | None:
    """Apply `key.sub=value`, `--key.sub=value` or `~key.sub`; returns what is wrong where it is none of these."""
    plain = text.removeprefix("--")
    key, equals, value = plain.removeprefix("~").partition("=")
    if not re.fullmatch(r"\w+(\.\w+)*", key) or bool(equals) == plain.startswith("~"):
        return f"override {text}: must be key.sub=value, or ~key.sub for the default"
    if not equals:
        written.remove(key, "override ~")
        return None
    try:
        written.set(key, yaml.load(value, Loader), "override ")
    except yaml.MarkedYAMLError as error:
        return f"override {text}: not YAML: {told(error)}; quote the value"
    return None


def line_of(error: yaml.MarkedYAMLError) -> int:
    """Counted from one."""
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def told(error: yaml.MarkedYAMLError) -> str:
    """The parser's own words, in one line."""
    return " ".join(f"{error.problem or error.context}".split())


def dump(values: dict[str, Any]) -> str:
    """As YAML that reads back equal."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
