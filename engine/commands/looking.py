"""`engine list`, `show`, `copy`, `check-data` and `doctor`: what looks around and trains nothing."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, RecipeError
from ..recipe import find
from .output import Json, as_json, as_table, naming, note, rows
from .training import RECIPE

KINDS = ("recipes", "methods", "models", "kernels")


def list_(kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))], json: Json = False) -> None:
    """List recipes, methods, models or kernels."""
    from .. import catalogue

    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        raise RecipeError(
            f"list {kind}: must be one of {', '.join(KINDS)}" + (f"; did you mean {near[0]}?" if near else "")
        )
    rows(getattr(catalogue, kind)(), json)


def show(recipe: Annotated[str, RECIPE], json: Json = False) -> None:
    """Print a recipe as it is written."""
    from ..recipe_text import read

    file = find(recipe)
    whole, short = read(file, str(recipe))
    if json:
        as_json({**whole.values, **({"short": short.values} if short.values else {})})
    else:
        typer.echo(file.read_text(encoding="utf-8"), nl=False)


def copy(
    recipe: Annotated[str, RECIPE],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a recipe to a file."""
    source = find(recipe)
    target = file / source.name if file.is_dir() else file
    if target.exists() and not force:
        raise RecipeError(f"{target}: exists already; choose another name, or replace it with --force")
    if not target.parent.is_dir():
        raise RecipeError(f"{target}: there is no folder {target.parent}")
    target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(target)


def check_data(
    root: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of images or of shards, as data.root takes it.")
    ],
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images. [default: one a core]")
    ] = None,
    json: Json = False,
) -> None:
    """Decode every image of a folder; list the bad ones."""
    from ..data.check import check, splits_of
    from ..data.cores import cores
    from .bar import progress

    with naming("DIR"):
        splits = splits_of(root)
    with progress("images", sum(map(len, splits))) as advance:
        reports = [check(split, cores() if workers is None else workers, advance) for split in splits]
    if json:
        as_json([asdict(report) for report in reports])
    else:
        as_table(
            {
                "folder": report.root,
                "images": report.images,
                "classes": len(report.classes) if report.classes else None,
                "widths": "/".join(map(str, report.widths)),
                "heights": "/".join(map(str, report.heights)),
                "images/s": round(report.images_per_second, 1),
                "bad": len(report.bad),
            }
            for report in reports
        )
        for path, reason in (pair for report in reports for pair in report.bad):
            typer.echo(f"{path}: {reason}")
    images = sum(report.images for report in reports)
    bad, unusable = sum(len(report.bad) for report in reports), images - sum(report.readable for report in reports)
    if bad:
        shards = f"; broken shards: {bad - unusable}" if bad > unusable else ""
        raise DataError(f"{root}: {unusable} of {images} images cannot be used{shards}")


def doctor(json: Json = False) -> None:
    """Tell what is usable here, and why not the rest."""
    from ..doctor import examine

    found = [row._asdict() for row in examine()]
    rows(found, json)
    if not json and (wrong := [row["what"] for row in found if row["state"] == "warning"]):
        note(f"look at: {', '.join(wrong)}")
