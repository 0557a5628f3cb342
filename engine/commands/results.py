"""`engine eval`, `engine embed` and `engine export`: what is done with a checkpoint."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from .bar import progress
from .output import Json, as_json, as_table, note
from .training import out_of_memory

CHECKPOINT = typer.Argument(metavar="CHECKPOINT", help="A run folder, or a checkpoint step-NNNNNNN in one.")
DATA = typer.Option(help="Labelled images: train/ and val/, or classes. [default: the run's own]")
KINDS = "class|mean|class+mean|last-N"
PROTOCOLS = "knn|linear|finetune|isotropy|top1"
BATCH = typer.Option("--batch-size", min=1, help="Images at a time. [default: 128]", show_default=False)
WORKERS = typer.Option("--workers", min=0, help="Processes that decode images. [default: 2]", show_default=False)
DEVICE = typer.Option("--device", metavar="auto|cpu|cuda", help="Where the encoder runs. [default: auto]")
LIMIT = typer.Option("--limit", min=1, help="At most so many images of either split.")


def evaluate(
    checkpoint: Annotated[Path, CHECKPOINT],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="finetune: overrides of its recipe.")
    ] = None,
    data: Annotated[Path | None, DATA] = None,
    protocol: Annotated[str, typer.Option(metavar=PROTOCOLS, help="What is measured.")] = "knn",
    features: Annotated[str | None, typer.Option(metavar=KINDS, help="knn, linear, isotropy: of which tokens.")] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="mocov3|dino|mae", help="linear: whose probe. [default: the method's]")
    ] = None,
    views: Annotated[
        int | None, typer.Option(min=0, help="linear: crops of each training image beside itself. [default: 1]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="linear: instead of the variant's 90 or 100.")] = None,
    half: Annotated[bool, typer.Option("--half", help="linear: keep features in 16 bits.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="linear, isotropy: of what is drawn. [default: 0]")] = None,
    out: Annotated[Path | None, typer.Option(help="finetune: its run folder. [default: runs/...]")] = None,
    batch_size: Annotated[int | None, BATCH] = None,
    workers: Annotated[int | None, WORKERS] = None,
    device: Annotated[str | None, DEVICE] = None,
    limit: Annotated[int | None, LIMIT] = None,
    json: Json = False,
) -> None:
    """Measure what an encoder has learned; also kept as evaluation-PROTOCOL.json in the run folder."""
    options = asked(
        overrides=tuple(overrides or ()) or None, features=features, variant=variant, views=views, epochs=epochs,
        half=half or None, seed=seed, out=out, batch_size=batch_size, workers=workers, device=device, limit=limit,
    )  # fmt: skip
    with out_of_memory(less(batch_size)):
        from ..evaluate import evaluate as measure
        from ..evaluate import record

        shown = {} if protocol == "finetune" else {"progress": progress}
        result = measure(checkpoint, data, protocol, **options, **shown)
    try:
        record(result, checkpoint)
    except (OSError, ValueError) as error:  # read-only, or not ours
        note(f"the result is not kept in the run folder: {error}")
    if json:
        as_json(result)
        return
    rates = result.pop("rates", [])
    as_table({"figure": key, "value": value} for key, value in flat(result).items())
    if rates:
        as_table(rates)


def embed(
    checkpoint: Annotated[Path, CHECKPOINT],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file .safetensors or .npy.")],
    data: Annotated[Path | None, DATA] = None,
    features: Annotated[str | None, typer.Option(metavar=KINDS, help="Of which tokens. [default: class]")] = None,
    split: Annotated[str, typer.Option(metavar="train|val", help="Of which images.")] = "train",
    format: Annotated[
        str | None, typer.Option(metavar="safetensors|npy", help="[default: the suffix of OUT, else safetensors]")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Features in 16 bits.")] = False,
    batch_size: Annotated[int | None, BATCH] = None,
    workers: Annotated[int | None, WORKERS] = None,
    device: Annotated[str | None, DEVICE] = None,
    limit: Annotated[int | None, LIMIT] = None,
    json: Json = False,
) -> None:
    """Write features, labels and paths of images to a file."""
    options = asked(
        features=features, half=half or None, batch_size=batch_size, workers=workers, device=device, limit=limit
    )
    with out_of_memory(less(batch_size)):
        from ..evaluate.embed import embed as write
        from ..evaluate.subject import Options

        written = write(checkpoint, data, out, Options(**options, progress=progress), split=split, format=format)
    if json:
        as_json({"file": str(written), "bytes": written.stat().st_size})
    else:
        typer.echo(written)


def asked(**options: Any) -> dict[str, Any]:
    """Those that were given: what a protocol does not read is refused only then."""
    return {name: value for name, value in options.items() if value is not None}


def less(batch_size: int | None) -> str:
    """What needs less memory."""
    return f"try --batch-size {max(1, (batch_size or 128) // 2)}, --limit, or --device cpu"


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
