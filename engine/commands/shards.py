"""`engine shards build` and `check`: a folder of images as tar files, and whether they are still what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.cores import cores
from ..errors import DataError, RecipeError
from .fractal import Jobs
from .output import counted, naming, note

if TYPE_CHECKING:
    from ..data.shard_build import Settings, ShardBuild

app = typer.Typer(name="shards", help="Images in tar files: build, check.", no_args_is_help=True, rich_markup_mode=None)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images, as data.root takes it.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="An empty folder, or one that such a build was begun in.")]
ShortSide = Annotated[int | None, typer.Option(min=1, help="Make larger images so small. [default: copy files]")]
Quality = Annotated[int | None, typer.Option(min=1, max=100, help="Of the JPEG of images made smaller. [default: 90]")]
Samples = Annotated[int | None, typer.Option(min=1, help="Images of a shard. [default: 10000]")]
Bytes = Annotated[int | None, typer.Option(min=1, help="Of the images of a shard at most, in place of --samples.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the order of the images. [default: 0]")]
MEND = "remove such parts and their files in checksums/, and the command that built them writes them again"
NoShuffle = Annotated[bool, typer.Option("--no-shuffle", help="Keep the order of the folder.")]


@app.command()
def build(
    folder: Folder, out: Out, short_side: ShortSide = None, quality: Quality = None, samples: Samples = None,
    bytes: Bytes = None, seed: Seed = None, no_shuffle: NoShuffle = False, jobs: Jobs = None,
) -> None:  # fmt: skip
    """Write a folder of images as WebDataset shards. The same command goes on with an interrupted build."""
    refuse(short_side, quality, samples, bytes, seed, no_shuffle)
    from ..data.shard_build import BAD_FILES, Settings, write
    from .bar import progress

    settings = Settings(
        short_side=short_side,
        quality=None if short_side is None else quality or 90,
        samples=None if bytes else samples or 10_000,
        bytes=bytes,
        seed=None if no_shuffle else seed or 0,
    )
    plan = planned(folder, out, settings)
    with progress("images", plan.total, plan.done) as advance:
        manifest = write(plan, jobs or cores(), advance)
    bad = manifest["bad"]
    left = f"; {bad:,} cannot be read and are left out, see {out / BAD_FILES}" if bad else ""
    note(f"{counted(manifest['images'], 'image')} in {counted(manifest['parts'], 'shard')}{left}")
    typer.echo(out)


def planned(folder: Path, out: Path, settings: Settings) -> ShardBuild:
    """The build; DataError where the folder holds no images as files."""
    from ..data.shard_build import ShardBuild
    from ..data.source import kind_of

    try:
        with naming("DIR"):
            return ShardBuild(folder, out, settings)
    except DataError:
        if kind_of(folder) != "shards":
            raise
        raise DataError(f"DIR: {str(folder)!r} holds shards already; must be a folder of images as files") from None


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `engine shards build` wrote.")],
    jobs: Jobs = None,
) -> None:
    """Tell whether a build is what was written. Lists what is not."""
    from ..data.verify import checksums_of, faults, images
    from .bar import progress

    parts = checksums_of(folder)
    with progress("images", sum(map(images, parts))) as advance:
        found = faults(folder, jobs or cores(), advance)
    for line in found:
        typer.echo(line)
    if found:
        raise DataError(f"{folder}: not what was written, in {counted(len(found), 'respect')}; {MEND}")
    told = f"{counted(sum(map(images, parts)), 'image')} in {counted(len(parts), 'part')}"
    note(f"{told}, as they were written")


def refuse(
    short_side: int | None,
    quality: int | None,
    samples: int | None,
    bytes: int | None,
    seed: int | None,
    in_order: bool,
) -> None:
    """Options that would do nothing."""
    if quality is not None and short_side is None:
        raise RecipeError(f"--quality={quality}: files are copied as they are; needs --short-side")
    if samples is not None and bytes is not None:
        raise RecipeError(f"--samples={samples}: a shard ends at --bytes={bytes}; give one of the two")
    if seed is not None and in_order:
        raise RecipeError(f"--seed={seed}: nothing is random with --no-shuffle; give one of the two")
