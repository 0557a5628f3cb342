"""Results go to stdout, for people as tables and for programs as JSON; everything else goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..errors import DataError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
WIDE = 10_000  # columns of a pipe or a file, where no line should be wrapped


def as_json(value: Any) -> None:
    """To stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def as_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows of the same keys, which are the titles of the columns; coloured on a terminal unless NO_COLOR is set."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in lines[0] if lines else ():
        table.add_column(title)
    for line in lines:
        table.add_row(*(Text(plain(value)) for value in line.values()))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def plain(value: Any) -> str:
    """A cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def rows(found: list[dict[str, Any]], json_wanted: bool) -> None:
    """The same content in either form."""
    (as_json if json_wanted else as_table)(found)


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Mistakes of data.root are told of the argument that was given in its place."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("data.root:", f"{argument}:", 1)) from None


def counted(count: int, what: str) -> str:
    """Of regular nouns.

    >>> counted(1, "shard"), counted(1200, "shard")
    ('1 shard', '1,200 shards')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def note(text: str) -> None:
    """A line for people, on stderr, from the first rank only."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)
