"""`engine bench`: how fast a recipe is here, and what limits it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..bench import HANDS, RATES
from ..errors import RecipeError
from ..recipe import Recipe, load
from .output import Json, as_json, note
from .training import OVERRIDES, RECIPE, SHORT, less_memory, out_of_memory, refuse_options, tell_which

SUFFIX = ".jsonl"
ROOT = Path(__file__).resolve().parents[2]


def kept_in() -> Path:
    """Among the records of a checkout; of an installed package, here."""
    records = ROOT / "benchmarks" / "records"
    return (records if records.is_dir() else Path()) / f"bench{SUFFIX}"


class Command(TyperCommand):
    """`--record` takes a file if the next word is one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = [*args[1:], ""]
        plain = [
            word == "--record" and not following.endswith(SUFFIX) for word, following in zip(args, named, strict=True)
        ]
        given = [f"--record={kept_in()}" if alone else word for word, alone in zip(args, plain, strict=True)]
        return list(super().parse_args(ctx, given))


def bench(
    context: typer.Context,
    recipe: Annotated[str, RECIPE],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    short: Annotated[bool, SHORT] = False,
    parts: Annotated[
        str | None, typer.Option(metavar=",".join(RATES), help="Which rates: any of these. [default: each of them]")
    ] = None,
    batch: Annotated[str | None, typer.Option(metavar="N,N,...", help="A row for each batch size.")] = None,
    compare: Annotated[
        str | None, typer.Option(metavar=",".join(HANDS), help="The same step by two or all of these.")
    ] = None,
    find_batch: Annotated[bool, typer.Option("--find-batch", help="Search the largest batch that fits.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each rate, after the first steps.")] = 8.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Measured for each rate, instead of --seconds.")] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="[FILE.jsonl]", help="Append a line. [default file: benchmarks/records/bench.jsonl]"),
    ] = None,
    trace: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Chrome trace of a few steps.")] = None,
    json: Json = False,
) -> None:
    """Tell how fast a recipe is, and what limits it. Writes no run folder."""
    refuse_options(context, overrides or [])
    refuse_words(overrides or [], record)
    asked = {"parts": rates(parts), "compare": hands(compare)}
    if parts is not None and batch is None and (compare is not None or find_batch):
        raise RecipeError(f"--parts {parts}: would do nothing, as --compare and --find-batch take whole steps")
    refuse_places(record, trace)
    read = load(recipe, overrides or [], short or None)
    batches = tuple(load(recipe, [*(overrides or []), f"data.batch_size={n}"], short or None) for n in sizes(batch))
    tell_which(read, "form", "measures")
    with out_of_memory(f"{read.name}: {less_memory(read)}"):
        found = measured(read, asked, batches, find_batch, (seconds, steps), trace)
    if record:
        keep(found, record)
    show(found, json)


def measured(
    read: Recipe,
    asked: dict[str, tuple[str, ...]],
    batches: tuple[Recipe, ...],
    find_batch: bool,
    patience: tuple[float, int | None],
    trace: Path | None,
) -> dict[str, Any]:
    """Only now is torch waited for."""
    from ..bench.measurement import Request
    from ..bench.patience import Patience
    from ..bench.session import Wishes
    from ..bench.session import bench as measure

    command = shlex.join(["engine", *sys.argv[1:]])
    request = Request(asked["parts"], Patience(*patience), note)
    return measure(read, Wishes(request, batches, asked["compare"], find_batch, trace, command))


def keep(found: dict[str, Any], file: Path) -> None:
    """A line of the record."""
    from ..bench.session import append

    append(file, found)
    note(f"appended to {file}")


def show(found: dict[str, Any], json: bool) -> None:
    """To stdout, in either form."""
    if json:
        as_json(found)
        return
    from ..bench.table import shown

    shown(found)


def rates(text: str | None) -> tuple[str, ...]:
    """Of --parts."""
    return (*RATES,) if text is None else chosen("parts", text, RATES)


def hands(text: str | None) -> tuple[str, ...]:
    """Of --compare: none, or more than one."""
    found = () if text is None else chosen("compare", text, HANDS)
    if len(found) == 1:
        raise RecipeError(f"--compare {text}: must be two or three of {', '.join(HANDS)}")
    return found


def chosen(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names from a list, in their own order."""
    known = [*known]
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "as in " + ",".join(known)
            raise RecipeError(f"--{option} {text}: {name!r} must be one of {', '.join(known)}; {hint}")
    return tuple(name for name in known if name in wanted)


def sizes(text: str | None) -> list[int]:
    """Numbers from a list, each once."""
    words = [word.strip() for word in text.split(",")] if text is not None else []
    for word in words:
        if not word.isdecimal() or int(word) == 0:
            raise RecipeError(f"--batch {text}: {word!r} must be a number of images, as in --batch 64,128,256")
    return sorted({int(word) for word in words})


def refuse_words(overrides: list[str], record: Path | None) -> None:
    """A file meant for --record, which takes no other than these."""
    for word in overrides:
        if record is not None and "=" not in word and not word.startswith("~"):
            raise RecipeError(f"{word}: must be key.sub=value; the file of --record is named *{SUFFIX}")


def refuse_places(record: Path | None, trace: Path | None) -> None:
    """What could not be written at the end is said at the beginning."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("bench: measures one process; start it without torchrun")
    for option, file in (("record", record), ("trace", trace)):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            what = "a folder; must be a file" if file.is_dir() else f"there is no folder {file.parent}"
            raise RecipeError(f"--{option} {file}: {what}")
