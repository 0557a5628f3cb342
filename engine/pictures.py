"""Pictures of what a method looks at, written once at the start of a run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .data.loader import Loader

if TYPE_CHECKING:
    from .train import Trainer


def draw(trainer: Trainer, folder: Path) -> None:
    """Write the method's pictures of the first images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    count = min(8, len(trainer.source))
    loader = Loader(
        trainer.source,
        trainer.method.views(),
        batch_size=count,
        seed=trainer.recipe.run.seed,
        workers=0,
        device=trainer.device,
        max_bad=1.0,
    )
    for batch in islice(loader, 1):
        for name, picture in trainer.method.pictures(batch).items():
            Image.fromarray(picture.cpu().numpy()).save(folder / f"{name}.png")
    loader.close()
