"""Features of images in a file, for whatever comes after."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..data.source import Source
from ..device import pick_device
from ..errors import DataError, RecipeError
from .features import checked, several
from .images import images_of, labels_of
from .subject import Options, open_method, open_splits

FORMATS = "safetensors", "npy"
SPLITS = "train", "val"


def embed(
    checkpoint: Path, data: Path | None, out: Path, options: Options, *, split: str = "train", format: str | None = None
) -> Path:
    """Write features [N, D], labels [N] (-1: none) and paths of the images of one split to `out`, whole or not at all.

    safetensors: tensors `features`, `labels` and `paths`, the latter uint8, each path ended by a zero byte; what they
    are of is in the metadata. npy: one array of records with the fields `features`, `label` and `path`. Without a
    format it is the suffix of `out`.
    """
    format = format or out.suffix[1:] or FORMATS[0]
    if format not in FORMATS:
        raise RecipeError(f"--format {format}: must be one of {', '.join(FORMATS)}")
    if split not in SPLITS:
        raise RecipeError(f"--split {split}: must be one of {', '.join(SPLITS)}")
    subject = open_method(checkpoint)
    encoder = subject.method.backbone()
    kind = checked(options.features or "class", encoder)
    source = dict(zip(SPLITS, open_splits(subject.recipe, data), strict=True))[split]
    if source is None:
        raise DataError(f"--split val: no second split in {subject.recipe.data.root if data is None else data}")
    with options.progress("images", images_of(options.limit, source)) as advance:
        found, numbers = several(encoder.to(pick_device(options.device)), source, (kind,), options, advance)
    about = {
        "checkpoint": str(checkpoint),
        "method": subject.recipe.method.name,
        "step": str(subject.step),
        "features": kind,
        "split": split,
        "classes": json.dumps(source.classes),
    }
    target = out if out.suffix else out.with_suffix(f".{format}")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(draft, format, found[kind].half() if options.half else found[kind], numbers, source, about)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def write(draft: Path, format: str, features: Tensor, numbers: Tensor, source: Source, about: dict[str, str]) -> None:
    """In either format."""
    labels, names = labels_of(source, numbers), [source.name(number) for number in numbers.tolist()]
    if format == "safetensors":
        ended = b"".join(os.fsencode(name) + b"\0" for name in names)
        paths = torch.frombuffer(bytearray(ended), dtype=torch.uint8)
        save_file({"features": features, "labels": labels, "paths": paths}, draft, about)
        return
    rows = features.numpy()
    longest = max(map(len, names))
    fields = [("features", rows.dtype, rows.shape[1:]), ("label", np.int64), ("path", f"U{longest}")]
    table = np.empty(len(rows), fields)
    table["features"], table["label"], table["path"] = rows, labels.numpy(), names
    with draft.open("wb") as file:
        np.save(file, table)
