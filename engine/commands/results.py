"""`engine eval`, `engine embed` and `engine export`: what is done with a checkpoint."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .bar import progress
from .output import Json, as_json, as_table, naming, note
from .training import out_of_memory

CHECKPOINT = typer.Argument(metavar="CHECKPOINT", help="A run folder, or a checkpoint step-NNNNNNN in one.")
KINDS = "class|mean|class+mean|mean_norm|last-N"
PROTOCOLS = "knn|linear|finetune|isotropy|top1"
Data = Annotated[
    Path | None, typer.Option(help="Labelled images: train/ and val/, or classes. [default: the run's own]")
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images at a time. [default: 128]")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that decode images. [default: 2]")]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|cuda", help="Where the encoder runs. [default: auto]")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many images of either split.")]
Variant = Annotated[
    str | None, typer.Option(metavar="mocov3|dino|mae", help="linear: whose probe. [default: the method's]")
]
Views = Annotated[
    int | None, typer.Option(min=0, help="linear: crops of each training image beside itself. [default: 1]")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="linear: instead of the variant's 90 or 100.")]
Seed = Annotated[int | None, typer.Option(min=0, help="linear, isotropy: of what is drawn. [default: 0]")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="finetune: overrides of its recipe.")
]


def evaluate(
    checkpoint: Annotated[Path, CHECKPOINT],
    overrides: Overrides = None,
    data: Data = None,
    protocol: Annotated[str, typer.Option(metavar=PROTOCOLS, help="What is measured.")] = "knn",
    features: Annotated[str | None, typer.Option(metavar=KINDS, help="knn, linear, isotropy: of which tokens.")] = None,
    variant: Variant = None,
    views: Views = None,
    epochs: Epochs = None,
    half: Annotated[bool, typer.Option("--half", help="linear: keep features in 16 bits.")] = False,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="finetune: its run folder. [default: runs/...]")] = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    device: Device = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Measure what an encoder has learned. Also kept as evaluation-PROTOCOL.json in the run folder."""
    options = asked(
        overrides=tuple(overrides or ()) or None, features=features, variant=variant, views=views, epochs=epochs,
        half=half or None, seed=seed, out=out, batch_size=batch_size, workers=workers, device=device, limit=limit,
    )  # fmt: skip
    with out_of_memory(less(batch_size)):
        from ..evaluate import evaluate as measure
        from ..evaluate import record

        shown = {} if protocol == "finetune" else {"progress": progress}
        with naming("--data" if data else "data.root"):
            result = measure(checkpoint, data, protocol, **options, **shown)
        keep(record, result, checkpoint)
    show(result, json)


def keep(record: Callable[[dict[str, Any], Path], object], result: dict[str, Any], checkpoint: Path) -> None:
    """In the run folder, if it can be: what was measured is printed in any case."""
    try:
        record(result, checkpoint)
    except (OSError, ValueError) as error:  # read-only, or not ours
        note(f"the result is not kept in the run folder: {error}")


def show(result: dict[str, Any], json: bool) -> None:
    """Figures, and under them the rates of a grid."""
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
    data: Data = None,
    features: Annotated[str | None, typer.Option(metavar=KINDS, help="Of which tokens. [default: class]")] = None,
    split: Annotated[str, typer.Option(metavar="train|val", help="Of which images.")] = "train",
    format: Annotated[
        str | None, typer.Option(metavar="safetensors|npy", help="[default: the suffix of OUT, else safetensors]")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Features in 16 bits.")] = False,
    batch_size: BatchSize = None,
    workers: Workers = None,
    device: Device = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Write features, labels and paths of images to a file."""
    options = asked(
        features=features, half=half or None, batch_size=batch_size, workers=workers, device=device, limit=limit
    )
    with out_of_memory(less(batch_size)):
        from ..evaluate.embed import embed as write
        from ..evaluate.subject import Options

        with naming("--data" if data else "data.root"):
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
