"""Pictures of what a method looks at: the first images, at the start of a run and with every checkpoint."""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .data.loader import Loader

if TYPE_CHECKING:
    from .report import Reporter
    from .train import Trainer


def draw(trainer: Trainer, folder: Path, reporter: Reporter) -> None:
    """Write the method's pictures as PNG files, the newest over the last; TensorBoard keeps all that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    loader = Loader(
        trainer.source,
        trainer.method.views(),
        batch_size=min(8, len(trainer.source)),
        seed=trainer.recipe.run.seed,
        workers=0,
        device=trainer.device,
        max_bad=1.0,
        bad=trainer.bad,
    )
    for batch in islice(loader, 1):
        for name, picture in trainer.method.pictures(batch).items():
            file, content = folder / f"{name}.png", BytesIO()
            Image.fromarray(picture.cpu().numpy()).save(content, "PNG")
            if not file.exists() or file.read_bytes() != content.getvalue():
                file.write_bytes(content.getvalue())
                reporter.picture(name, picture, trainer.pace.step)
    loader.close()
