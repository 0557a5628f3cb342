"""`engine fractal search`, `build` and `show`: categories found, images written, and a look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..complaints import complaints
from ..data.cores import cores
from ..errors import RecipeError
from ..settings.formulas import Formulas
from .output import note

app = typer.Typer(
    name="fractal", help="Formula-driven images: search, build, show.", no_args_is_help=True, rich_markup_mode=None
)
OPTIONS = {  # of the command, where a key of data: has another name
    "categories_root": "root",
    "fractal_size": "size",
    "fractal_points": "points",
}
Root = Annotated[Path | None, typer.Option(help="Folder of categories NNNNN.csv. [default: those of seed 1]")]
Style = Annotated[
    str, typer.Option(metavar="STYLE", help="patch_gray, patch_color, point_gray, point_color, contour_rcdb|atom.")
]
Points = Annotated[int, typer.Option(help="Points of each picture.")]
Variation = Annotated[float, typer.Option(help="Factors on a formula's numbers: 1 +- this and twice this.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is random in a picture, as run.seed.")]
Exact = Annotated[bool, typer.Option("--exact", help="Later patches hide earlier ones, as published; slower.")]
Official = Annotated[bool, typer.Option("--official", help="Keep diverged and nearly blank pictures, as published.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes. [default: one a core]")]


@app.command()
def search(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where 00000.csv, ... are written.")],
    categories: Annotated[int, typer.Option(min=1, help="How many to find.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="1 gives FractalDB's own categories.")] = 1,
    jobs: Jobs = None,
) -> None:
    """Find categories by FractalDB's rule. The same command goes on with an interrupted search."""
    from ..data.fractal_search import Search
    from .bar import progress

    found = Search(out, categories, seed)
    with progress("categories", categories, found.accepted) as advance:
        found.run(jobs or cores(), advance)
    typer.echo(found.told())


@app.command()
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An empty folder, or one that such a build was begun in.")],
    categories: Annotated[int, typer.Option(help="How many classes.")] = 1000,
    instances: Annotated[int, typer.Option(help="Images of each.")] = 1000,
    size: Annotated[int, typer.Option(help="Pixels along a side.")] = 362,
    points: Points = 200_000,
    style: Style = "patch_gray",
    variation: Variation = 0.4,
    root: Root = None,
    seed: Seed = 0,
    format: Annotated[str, typer.Option(metavar="folder|tar", help="PNG in folders, or WebDataset shards.")] = "folder",
    exact: Exact = False,
    official: Official = False,
    jobs: Jobs = None,
) -> None:
    """Write a data set of images. The same command goes on with an interrupted build."""
    if format not in ("folder", "tar"):
        raise RecipeError(f"--format={format}: must be folder or tar")
    data = chosen(
        categories=categories, instances=instances, fractal_size=size, fractal_points=points, style=style,
        variation=variation, categories_root=root and str(root), render="exact" if exact else "fast", official=official,
    )  # fmt: skip
    from ..data.fractal_build import Build, write
    from .bar import progress

    plan = Build(out, data, seed, format == "tar")
    with progress("images", categories * instances, plan.done) as advance:
        manifest = write(plan, jobs or cores(), advance)
    lost = len(manifest["not_drawn"])
    note(
        f"{manifest['images']:,} images; for {manifest['replaced']:,} another variation was drawn, as their own "
        f"diverges or is nearly blank" + (f"; {lost:,} could not be drawn" if lost else "")
    )
    typer.echo(out)


@app.command()
def show(
    out: Annotated[Path, typer.Argument(metavar="OUT.png", help="The picture to write.")],
    categories: Annotated[
        str, typer.Option(metavar="N|A-B|A,B,...", help="How many, or which: 8, 3-7, or 1,5,9.")
    ] = "8",
    instances: Annotated[int, typer.Option(help="Of each, side by side.")] = 12,
    size: Annotated[int, typer.Option(help="Pixels along a side.")] = 128,
    points: Points = 40_000,
    style: Style = "patch_gray",
    variation: Variation = 0.4,
    root: Root = None,
    seed: Seed = 0,
    exact: Exact = False,
    official: Official = False,
) -> None:
    """Write a contact sheet: a row of instances for each category."""
    rows = numbered(categories)
    data = chosen(
        categories=max(rows) + 1, instances=instances, fractal_size=size, fractal_points=points, style=style,
        variation=variation, categories_root=root and str(root), render="exact" if exact else "fast", official=official,
    )  # fmt: skip
    if out.suffix.lower() != ".png":
        raise RecipeError(f"{out}: must be named *.png")
    if not out.parent.is_dir():
        raise RecipeError(f"{out}: there is no folder {out.parent}")
    from ..data.fractal import Fractals
    from ..data.fractal_sheet import save

    source = Fractals(data, seed)
    save(source, rows, instances, out)
    if told := source.artist.told():
        note(told)
    typer.echo(out)


def chosen(**values: Any) -> Formulas:
    """The settings that the options amount to; RecipeError names the option and what it must be."""
    from pydantic import ValidationError

    try:
        return Formulas(**values)
    except ValidationError as error:
        faults = []
        for key, value, text in complaints(error, "data", {"data": Formulas}, values):
            name = key.removeprefix("data.")
            faults.append(f"--{OPTIONS.get(name, name)}={value}: {text}")
        raise RecipeError("\n".join(faults)) from None


def numbered(text: str) -> list[int]:
    """Categories: the first N of them, a range, or a list.

    >>> numbered("3"), numbered("4-6"), numbered("7,2")
    ([0, 1, 2], [4, 5, 6], [7, 2])
    """
    try:
        if "," in text:
            found = [int(part) for part in text.split(",") if part]
        elif "-" in text[1:]:
            first, _, last = text.partition("-")
            found = list(range(int(first), int(last) + 1))
        else:
            found = list(range(int(text)))
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise RecipeError(f"--categories={text}: must be a number of categories, a range A-B or a list A,B,...")
    return found
