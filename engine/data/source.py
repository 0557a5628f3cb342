"""What the loader asks of a set of images, and the door through which a recipe's one is opened."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..settings import Data

Split = Literal["train", "val"]


class BadImage(Exception):
    """A file that cannot be used as an image, and why; the loader replaces it and goes on."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


class Source(Protocol):
    """Images by index, in an order that is the same wherever it is asked for. Small to pickle, cheap to fork."""

    classes: tuple[str, ...] | None  # None: no labels

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image:
        """The image in mode RGB; raises BadImage."""
        ...

    def label(self, index: int) -> int:
        """The place of its class in `classes`, or -1 where there are none."""
        ...

    def name(self, index: int) -> str:
        """Its path, or what stands for one."""
        ...


@runtime_checkable
class Files(Source, Protocol):
    """A source whose images are files, or parts of files, that any decoder may read."""

    problems: tuple[tuple[str, str], ...]  # path and reason of what was found broken before any image was read

    def read(self, index: int) -> bytes:
        """The encoded image; raises BadImage."""
        ...


def open_source(data: Data, seed: int, split: Split = "train") -> Source | None:
    """The images of one split of a recipe's data; None where there is no such split.

    DataError, naming the folder, where the training images cannot be used or `data.val` was given and cannot be.
    """
    if data.source == "fractal":
        from .fractal import Fractals

        return Fractals(data, seed, split)
    if data.source == "shards":
        from .shards import open_shards

        return open_shards(data.root, data.val, split)
    from .folder import open_folder

    return open_folder(data.root, data.val, split)


def kind_of(root: Path) -> Literal["folder", "shards"]:
    """What data.source a folder is: shards where there are tar files in its train, or in itself if it has none."""
    with suppress(OSError, RuntimeError):  # told where the folder is opened
        root = root.expanduser()
        place = root / "train" if (root / "train").is_dir() else root
        return "shards" if next(place.glob("*.tar"), None) else "folder"
    return "folder"
