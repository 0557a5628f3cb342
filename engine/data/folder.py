"""Images in folders: one folder a class, or all of them anywhere below one."""

import os
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from ..errors import DataError
from .decode import content, picture, reason
from .index import SUFFIXES, Index, open_index
from .source import Split, kind_of

VALIDATION = ("val", "validation", "test")


class FolderSource:
    """The images of an index. `classes` may be another folder's, whose numbers the labels then are."""

    problems: tuple[tuple[str, str], ...] = ()

    def __init__(self, index: Index, classes: tuple[str, ...] | None = None):
        self.index = index
        self.classes = index.classes if index.classes is None or classes is None else classes
        self.labels: NDArray[np.int32] = index.labels
        if self.classes is not None and index.classes is not None and self.classes != index.classes:
            numbers = _renumber(index, self.classes)
            self.labels = numbers[index.labels]

    def __len__(self) -> int:
        return len(self.index)

    def image(self, index: int) -> Image:
        return picture(self.read(index), self.name(index))

    def read(self, index: int) -> bytes:
        return content(self.index.path(index))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.index.path(index)


def _renumber(index: Index, classes: tuple[str, ...]) -> NDArray[np.int32]:
    number = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in index.classes or () if name not in number]
    if unknown:
        raise DataError(
            f"{index.root}: class {unknown[0]!r} is not among the {len(classes)} classes of the training images"
            f"{_nearest(unknown[0], classes)}"
        )
    return np.array([number[name] for name in index.classes or ()], np.int32)


def open_folder(root: str | None, val: str | None, split: Split) -> FolderSource | None:
    """The training images are in root/train where there is one, else in root; the others in `val` or beside train."""
    if root is None:
        raise DataError("data.root: null; must be the folder of the images")
    folder = existing(root, "data.root", "images")
    split_apart = (folder / "train").is_dir()
    train = folder / "train" if split_apart else folder
    if split == "train":
        return FolderSource(_filled(train, "data.root"))
    if val is not None:
        return FolderSource(_filled(existing(val, "data.val", "images"), "data.val"), open_index(str(train)).classes)
    for name in VALIDATION if split_apart else ():
        if (folder / name).is_dir():
            return FolderSource(_filled(folder / name, "data.root"), open_index(str(train)).classes)
    return None


def _filled(folder: Path, key: str) -> Index:
    index = open_index(str(folder))
    if not len(index):
        kinds = ", ".join(suffix.decode() for suffix in SUFFIXES[:6])
        must = f"must hold files named {kinds}, ..., in one folder for each class or in any folders at all"
        if kind_of(folder) == "shards":
            must = "it holds tar files: say data.source=shards"
        raise DataError(f"{key}: no image in {str(folder)!r} or below it; {must}")
    return index


def existing(place: str, key: str, what: str) -> Path:
    """A folder that can be read; DataError naming the key."""
    must = f"must be the folder of the {what}"
    try:
        folder = Path(place).expanduser()
        found, is_folder = folder.exists(), folder.is_dir()
    except (OSError, RuntimeError) as error:  # no permission on the way there, a name too long, ~ of nobody
        raise DataError(f"{key}: {place!r}: {reason(error)}; {must}") from None
    if is_folder and os.access(folder, os.R_OK | os.X_OK):
        return folder
    if found:
        raise DataError(f"{key}: {str(folder)!r} {'may not be read' if is_folder else 'is a file'}; {must}")
    siblings: list[str] = []
    with suppress(OSError):
        siblings = [path.name for path in folder.parent.iterdir()]
    raise DataError(f"{key}: {str(folder)!r} does not exist; {must}{_nearest(folder.name, siblings)}")


def _nearest(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, names, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
