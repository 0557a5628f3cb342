"""What an encoder has learned, measured without training it further."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def evaluate(
    checkpoint: Path,
    data: Path | None,
    protocol: str = "knn",
    *,
    batch_size: int = 128,
    workers: int = 2,
    device: str = "auto",
    limit: int | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint, or the newest one of a run folder, on labelled images; returns the figures by name.

    `data` holds train/ and val/ (or test/), or classes alone, a tenth of which are then held out. None means the data
    the checkpoint was trained on.
    """
    from ..errors import RecipeError
    from . import knn

    if protocol != "knn":
        raise RecipeError(f"--protocol {protocol}: unknown; the protocol here is knn")
    return knn.evaluate(checkpoint, data, batch_size=batch_size, workers=workers, device=device, limit=limit)
