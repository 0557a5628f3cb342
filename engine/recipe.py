"""Recipes: YAML in, one frozen and complete object out, or every mistake in it at once. Never waits for torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, ValidationError

from .complaints import complaints, lost
from .errors import RecipeError
from .recipe_text import Written, dump, override, read
from .settings import Data, Encoder, MethodSettings, Optim, Run, Section
from .settings.lookup import settings_of
from .settings.strict import MISSING, Problem, nearest_multiple, shown

SHIPPED = Path(__file__).resolve().parents[1] / "recipes"
SECTIONS: dict[str, type[Section]] = {"encoder": Encoder, "data": Data, "optim": Optim, "run": Run}
WITHOUT_INFLUENCE = {  # no weight depends on them, so they may change while a run goes on
    "name",
    "data.max_bad",
    "data.workers",
    "data.fractal_cache",
    "run.cuda_graph",
    "run.log_every",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.tensorboard",
    "run.knn",
    "run.knn_images",
}


class Recipe(Section):
    """All that decides a run. `name` is the file's stem unless the file gives one."""

    name: Annotated[str, Field(pattern=r"^[^/]+$")]
    method: SerializeAsAny[MethodSettings]
    encoder: Encoder = Encoder()
    data: Data = Data()
    optim: Optim = Optim()
    run: Run = Run()
    short_reason: Annotated[str | None, Field(exclude=True)] = None  # why `short:` was applied

    def to_yaml(self) -> str:
        """Every key with its value; `load` reads it back equal."""
        return dump(self.model_dump(mode="json"))

    def conflicts(self) -> Iterator[Problem]:
        """Keys of two sections that do not go together."""
        for key, value, text in self.method.misfits(self.encoder):
            yield Problem(f"method.{key}", value, text)
        yield from self.batch_conflicts()
        if self.optim.warmup_epochs >= self.run.epochs:
            text = f"must be less than run.epochs={self.run.epochs:g}"
            yield Problem("optim.warmup_epochs", self.optim.warmup_epochs, text)

    def batch_conflicts(self) -> Iterator[Problem]:
        """Batches that do not divide, or that leave a method too few images."""
        size, parts, least = self.data.batch_size, self.run.accumulate, self.method.smallest_batch
        if size < least:
            yield Problem("data.batch_size", size, f"must be at least {least} for {self.method.name}")
        elif size // parts < least:
            most = max(n for n in range(1, size // least + 1) if size % n == 0)
            text = f"leaves {self.method.name} fewer than {least} images of data.batch_size={size} at a time"
            yield Problem("run.accumulate", parts, f"{text}; must be at most {most}")
        elif size % parts:
            text = f"must be a multiple of run.accumulate={parts}; the nearest is {nearest_multiple(size, parts)}"
            yield Problem("data.batch_size", size, text)
        else:
            yield from self.class_conflicts(size // parts)

    def class_conflicts(self, images: int) -> Iterator[Problem]:
        """Micro-batches of so many images that are not what was asked of their classes."""
        classes, each = self.data.classes_per_batch, self.method.of_each_class
        if classes is not None and images % classes:
            yield Problem("data.classes_per_batch", classes, f"must divide a micro-batch, which is {images} images")
        elif each is not None and images != each * (classes or 0):
            text = f"must be {images / each:g}, so that a micro-batch of {images} images has {each} of each class"
            yield Problem("data.classes_per_batch", classes, text)
        if classes is not None and self.data.repeats > 1:
            yield Problem("data.repeats", self.data.repeats, "must be 1 where data.classes_per_batch is set")


def load(source: Path | str, overrides: Sequence[str] = (), short: bool | None = None) -> Recipe:
    """A recipe by its path or shipped name. Overrides (`key.sub=value`, `~key.sub`) win over `short:` and the file.

    `short:` is applied if asked for, or, where `short` is None, if images should be files and no folder is named.
    RecipeError holds one line for each problem.
    """
    file = find(source)
    place = shown_path(file)
    whole, in_short = read(file, place)
    reason = why_short(layered(whole, overrides)[0], short)
    if reason and not in_short.values:
        raise RecipeError(f"{place}: {reason}, and the recipe has no short: section; set data.root=DIR")
    both = in_short.over(whole)
    used, faults = layered(both if reason else whole, overrides)
    recipe, problems = check(used, file.stem, reason)
    lines = [*faults, *(problem.told(used.place(problem.key, f"{place}: ")) for problem in problems)]
    if in_short.values:  # checked even by a run that does not use it
        in_vain = [problem for problem in check(both, file.stem, None)[1] if problem.key in in_short.places]
        lines += [problem.told(in_short.places[problem.key]) for problem in in_vain]
    if lines or recipe is None:
        raise RecipeError("\n".join(dict.fromkeys(lines)))
    return recipe


def find(source: Path | str) -> Path:
    """The file meant by a path or by the name of a shipped recipe."""
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{source}: a folder; must be a recipe, which is a file of YAML")
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
    """From here where it lies below, else as it is."""
    relative = os.path.relpath(file)
    return str(file) if relative.startswith("..") else relative


def layered(below: Written, overrides: Sequence[str]) -> tuple[Written, list[str]]:
    """What is written, with overrides on top, and what is wrong with the overrides themselves."""
    used = Written().over(below)
    return used, [fault for text in overrides if (fault := override(used, text))]


def why_short(used: Written, asked: bool | None) -> str | None:
    """The reason for a short run, or None for a full one."""
    data = used.values.get("data")
    data = data if isinstance(data, dict) else {}
    if asked is None and data.get("source", "folder") != "fractal" and data.get("root") is None:
        return "data.root is not set"
    return "--short was given" if asked else None


def check(used: Written, stem: str, reason: str | None) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, or what keeps it from being one. Sections are compared only when each by itself is right."""
    values = {"name": stem, "method": {}, **used.values}
    method, problems = settings_of(values["method"])
    sections = {**({"method": method} if method else {}), **SECTIONS}
    problems += strangers(values, used.removed, sections)
    built: dict[str, Any] = {"name": values["name"], "short_reason": reason}
    for name, section in sections.items():
        given = values.get(name, {})
        try:
            built[name] = section.model_validate(given)
        except ValidationError as error:
            problems += complaints(error, name, sections, given)
    if problems:
        return None, problems
    try:
        return Recipe(**built), []
    except ValidationError as error:
        return None, list(complaints(error, "", {"": Recipe}, values))


def strangers(values: dict[str, Any], removed: list[str], sections: dict[str, type[Section]]) -> Iterator[Problem]:
    """Sections that do not exist, and keys that cannot be reset because they do not."""
    for key, value in values.items():
        if key not in {"name", "method", *SECTIONS}:
            yield Problem(key, MISSING if isinstance(value, dict) else value, lost(key, "", sections))
    for dotted in removed:
        section, _, key = dotted.partition(".")
        if section not in {"name", "method", *SECTIONS}:
            yield Problem(dotted, MISSING, lost(section, "", sections))
        elif key and section in sections and key not in sections[section].model_fields:
            yield Problem(dotted, MISSING, lost(key, section, sections))


def difference(then: Recipe, now: Recipe) -> list[str]:
    """Keys that decide the weights and that differ, with both values."""
    before, after = (dict(Written(recipe.model_dump(mode="json")).leaves()) for recipe in (then, now))
    return [
        f"{key}: {shown(before.get(key))} then, {shown(after.get(key))} now"
        for key in {**before, **after}
        if before.get(key) != after.get(key) and key not in WITHOUT_INFLUENCE
    ]
