"""Recipes: YAML in, one frozen and complete object out, or every mistake in it told at once. Never imports torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError

from . import methods
from .complaints import MISSING, Problem, choice, complaints, lost
from .errors import RecipeError
from .recipe_text import Written, dump, override, read
from .settings import Data, Encoder, MethodSettings, Optim, Run, Section
from .settings.strict import Conflict, nearest_multiple, value_of

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
SECTIONS: dict[str, type[Section]] = {"encoder": Encoder, "data": Data, "optim": Optim, "run": Run}
WITHOUT_INFLUENCE = {  # keys that may change while a run goes on: no weight depends on them
    "data.workers",
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.tensorboard",
    "run.knn",
    "run.knn_images",
}


class Recipe(Section):
    """All that decides a run. `name` is the file's stem unless the file gives one."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    method: SerializeAsAny[MethodSettings]
    encoder: Encoder = Encoder()
    data: Data = Data()
    optim: Optim = Optim()
    run: Run = Run()
    short_reason: Annotated[str | None, Field(exclude=True)] = None  # why `short:` was applied

    def to_yaml(self) -> str:
        """Every key with its value; `load` reads it back equal."""
        return dump(self.model_dump(mode="json"))

    def conflicts(self) -> Iterator[Conflict]:
        """Keys of two sections that do not go together."""
        for key, text in self.method.misfits(self.encoder):
            yield Conflict(f"method.{key}", text)
        yield from self.batch_conflicts()
        if self.optim.warmup_epochs >= self.run.epochs:
            yield Conflict("optim.warmup_epochs", f"must be less than run.epochs={self.run.epochs:g}")

    def batch_conflicts(self) -> Iterator[Conflict]:
        """Batches that do not divide, or that leave a method too few images."""
        size, parts, least = self.data.batch_size, self.run.accumulate, self.method.smallest_batch
        if size < least:
            yield Conflict("data.batch_size", f"must be at least {least} for {self.method.name}")
        elif size // parts < least:
            most = max(n for n in range(1, size // least + 1) if size % n == 0)
            yield Conflict(
                "run.accumulate",
                f"leaves {size // parts} images of data.batch_size={size} in a micro-batch and {self.method.name} "
                f"needs {least}; must be at most {most}",
            )
        elif size % parts:
            nearest = nearest_multiple(size, parts)
            yield Conflict(
                "data.batch_size", f"must be a multiple of run.accumulate={parts}; the nearest is {nearest}"
            )


def load(source: Path | str, overrides: Sequence[str] = (), short: bool | None = None) -> Recipe:
    """A recipe by its path or shipped name. Overrides (`key.sub=value`, `~key.sub`) win over `short:` and the file.

    `short:` is applied if asked for, or, where `short` is None, if images should come from a folder and none is named.
    RecipeError holds one line for each problem.
    """
    file = find(source)
    place = shown_path(file)
    whole, in_short = read(file, place)
    reason = why_short(layered(whole, overrides)[0], short)
    if reason and not in_short.values:
        raise RecipeError(f"{place}: data.root: missing, and the recipe has no short: section; set data.root=DIR")
    used, faults = layered(in_short.over(whole) if reason else whole, overrides)
    recipe, problems = check(used, file.stem, reason)
    lines = [*faults, *told(problems, used, place)]
    lines += told(problems_of_short(whole, in_short, file.stem), in_short.over(whole), place)
    if lines or recipe is None:
        raise RecipeError("\n".join(dict.fromkeys(lines)))
    return recipe


def find(source: Path | str) -> Path:
    """The file meant by a path or by the name of a shipped recipe."""
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{source}: a folder; must be a recipe, a file of YAML")
    names = shipped()
    if str(source) in names:
        return SHIPPED / f"{source}.yaml"
    near = get_close_matches(path.stem, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"the shipped ones are {', '.join(names)}"
    raise RecipeError(f"{source}: no such recipe; {hint}")


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def shown_path(file: Path) -> str:
    """As it was given, or from here where that is shorter."""
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


def layered(below: Written, overrides: Sequence[str]) -> tuple[Written, list[str]]:
    """What is written, with overrides on top, and what is wrong with the overrides themselves."""
    used, faults = Written().over(below), []
    for text in overrides:
        try:
            override(used, text)
        except RecipeError as error:
            faults.append(str(error))
    return used, faults


def why_short(used: Written, asked: bool | None) -> str | None:
    """The reason for a short run, or None for a full one."""
    data = used.values.get("data")
    data = data if isinstance(data, dict) else {}
    if asked is None and data.get("source", "folder") == "folder" and data.get("root") is None:
        return "data.root is not set"
    return "--short was given" if asked else None


def check(used: Written, stem: str, reason: str | None) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, or what keeps it from being one. Sections are compared only when each by itself is right."""
    values = {"name": stem, **used.values}
    method, problems = method_of(values.get("method", {}))
    sections = {**({"method": method} if method else {}), **SECTIONS}
    known = {"name", "method", *SECTIONS}
    problems += [Problem(key, values[key], lost(key, "", sections)) for key in values if key not in known]
    problems += [
        Problem(key, MISSING, lost(key.partition(".")[2], key.partition(".")[0], sections))
        for key in used.removed
        if not exists(key, sections)
    ]
    built: dict[str, Any] = {"name": values["name"], "short_reason": reason}
    for name, section in sections.items():
        try:
            built[name] = section.model_validate(values.get(name, {}))
        except ValidationError as error:
            problems += complaints(error, name, section, sections)
    if problems:
        return None, problems
    try:
        return Recipe(**built), []
    except ValidationError as error:
        return None, list(complaints(error, "", Recipe, {"": Recipe}))


def exists(key: str, sections: dict[str, type[Section]]) -> bool:
    """Whether a dotted key, or a section, could be in this recipe."""
    section, _, rest = key.partition(".")
    return section in sections and (not rest or rest in sections[section].model_fields)


def method_of(values: Any) -> tuple[type[MethodSettings] | None, list[Problem]]:
    """The settings of the method that is named, ours by file or anyone's by dotted module."""
    name = values.get("name") if isinstance(values, dict) else None
    if name is None:
        return None, [Problem("method.name", MISSING, f"missing; {choice('', methods.names())}")]
    ours = methods.names()
    if "." not in str(name) and name not in ours:
        return None, [Problem("method.name", name, choice(str(name), ours))]
    path = str(name) if "." in str(name) else f"vitkiln.engine.settings.{name}"
    try:
        settings = import_module(path).Settings
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        return None, [Problem("method.name", name, f"no module {error.name}; install it or set PYTHONPATH")]
    except AttributeError:
        return None, [Problem("method.name", name, f"the module {path} has no class Settings")]
    if not (isinstance(settings, type) and issubclass(settings, MethodSettings)):
        return None, [Problem("method.name", name, f"{path}.Settings must be a subclass of MethodSettings")]
    return settings, []


def problems_of_short(whole: Written, in_short: Written, stem: str) -> list[Problem]:
    """What is wrong with keys of `short:`, which is checked even by a run that does not use it."""
    if not in_short.values:
        return []
    _, problems = check(in_short.over(whole), stem, None)
    return [problem for problem in problems if problem.key in in_short.places]


def told(problems: list[Problem], used: Written, place: str) -> Iterator[str]:
    """One line each, with the value that is in force where the problem itself does not know it."""
    for problem in problems:
        yield problem.told(used.places.get(problem.key, f"{place}: "))


def difference(then: Recipe, now: Recipe) -> list[str]:
    """Keys that decide the weights and that differ, with both values."""
    before, after = (dict(Written(recipe.model_dump(mode="json")).leaves()) for recipe in (then, now))
    return [
        f"{key}: {before.get(key)} then, {after.get(key)} now"
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key) != after.get(key) and key not in WITHOUT_INFLUENCE | {"name"}
    ]
