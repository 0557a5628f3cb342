"""`engine eval` and `engine export`: what is done with a checkpoint."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import Json, as_json, as_table, note
from .training import out_of_memory

CHECKPOINT = typer.Argument(metavar="CHECKPOINT", help="A run folder, or a checkpoint step-NNNNNNN in one.")


def evaluate(
    checkpoint: Annotated[Path, CHECKPOINT],
    data: Annotated[
        Path | None, typer.Option(help="Labelled images: train/ and val/, or classes. [default: the run's own]")
    ] = None,
    protocol: Annotated[str, typer.Option(help="knn: weighted nearest neighbours.")] = "knn",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 128,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 2,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the encoder runs.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images of either split.")] = None,
    json: Json = False,
) -> None:
    """Measure what an encoder has learned."""
    with out_of_memory(f"try --batch-size {max(1, batch_size // 2)}, --limit, or --device cpu"):
        from ..evaluate import evaluate as measure

        result = measure(checkpoint, data, protocol, batch_size=batch_size, workers=workers, device=device, limit=limit)
    if json:
        as_json(result)
    else:
        as_table({"figure": key, "value": value} for key, value in flat(result).items())


def flat(result: dict[str, Any]) -> dict[str, Any]:
    """Nested figures under dotted names."""
    found: dict[str, Any] = {}
    for key, value in result.items():
        inner = flat(value) if isinstance(value, dict) else None
        found |= {key: value} if inner is None else {f"{key}.{name}": part for name, part in inner.items()}
    return found


def export(
    checkpoint: Annotated[Path, CHECKPOINT],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, or a file .safetensors.")],
    format: Annotated[str, typer.Option(metavar="timm", help="Names of the weights.")] = "timm",
) -> None:
    """Write the encoder under timm's names, with no head."""
    from ..export import export as write
    from ..export import metadata, snippet
    from ..settings import Encoder

    written = write(checkpoint, out, format)
    note(snippet(written, Encoder(**json_module.loads(metadata(written)["encoder"]))))
    typer.echo(written)
