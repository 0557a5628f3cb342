"""What an encoder has learned, measured by one of five protocols."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import datetime, timezone
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

READING = {"batch_size", "workers", "device", "limit", "progress"}
READ = {  # the options that each protocol reads
    "knn": {*READING, "features"},
    "linear": {*READING, "features", "variant", "views", "epochs", "half", "seed"},
    "isotropy": {*READING, "features", "seed"},
    "top1": READING,
    "finetune": {"overrides", "out"},
}


def evaluate(checkpoint: Path, data: Path | None, protocol: str = "knn", **options: Any) -> dict[str, Any]:
    """Evaluate a checkpoint, or the newest one of a run folder; returns the figures by name.

    `data` holds train/ and val/ (or test/), or classes alone, a tenth of which are then held out. None means the data
    the checkpoint was trained on. `options` are fields of `subject.Options`; RecipeError for one that the protocol
    does not read.
    """
    refuse(protocol, options)
    if protocol == "finetune":
        from . import finetune

        return finetune.evaluate(checkpoint, data, tuple(options.get("overrides", ())), options.get("out"))
    from .subject import Options

    measure = import_module(f"{__name__}.{protocol}").evaluate
    found: dict[str, Any] = measure(checkpoint, data, Options(**options))
    return found


def refuse(protocol: str, options: dict[str, Any]) -> None:
    """Unknown protocols, and options that would do nothing."""
    from ..errors import RecipeError
    from .subject import Options

    if protocol not in READ:
        near = get_close_matches(protocol, READ, 1)
        hint = f"did you mean {near[0]}?" if near else f"must be one of {', '.join(READ)}"
        raise RecipeError(f"--protocol {protocol}: unknown; {hint}")
    for name in options:
        if name not in READ[protocol]:
            readers = [other for other, read in READ.items() if name in read]
            if name not in {field.name for field in fields(Options)}:
                raise TypeError(f"{name}: no option of a protocol")
            told = "KEY=VALUE" if name == "overrides" else f"--{name.replace('_', '-')}"
            raise RecipeError(f"{told}: --protocol {protocol} does not read it, only {', '.join(readers)}")


def record(result: dict[str, Any], checkpoint: Path) -> Path | None:
    """Append a result to evaluation-PROTOCOL.json, a list, in the checkpoint's run folder; None where it is in none."""
    from ..checkpoint import named

    folder = named(checkpoint).parent
    if folder.name != "checkpoints":
        return None
    file = folder.parent / f"evaluation-{result['protocol']}.json"
    found = json.loads(file.read_text()) if file.exists() else []
    before = found if isinstance(found, list) else [found]  # the end of a run writes one by itself
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps([*before, {"date": now, **result}], indent=1) + "\n")
    draft.replace(file)
    return file
