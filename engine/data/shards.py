"""Images in WebDataset tar shards, any of them read at once by where it lies."""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image

from ..errors import DataError
from .decode import picture, reason
from .folder import VALIDATION, existing
from .index import walk
from .samples import UNKNOWN, Ints, Shard, opened
from .shard_index import ShardIndex, joined, log, shards_of
from .source import BadImage, Split

OPEN = 256  # shards that a process keeps open
LOOKED = 1000  # folders looked into for images that are no shards
MANIFEST = "manifest.json"


class ShardSource:
    """The images of an index; `labels` are places in `classes`. Shards are opened by each process for itself."""

    def __init__(self, index: ShardIndex, classes: tuple[str, ...] | None, labels: Ints):
        self.index, self.classes, self.labels = index, classes, labels
        self.problems = index.problems
        self.open()

    def __len__(self) -> int:
        return len(self.index)

    def image(self, index: int) -> Image:
        return picture(self.read(index), self.name(index))

    def read(self, index: int) -> bytes:
        """The file of an image as it lies in its shard; BadImage."""
        if self.process != os.getpid():
            self.open()
        shard = bisect_right(self.index.firsts, index) - 1
        size = int(self.index.sizes[index])
        try:
            held = self.shard(shard)  # by name: another thread may make the cache drop it, and so close it
            data = os.pread(held.file, size, int(self.index.offsets[index]))
        except (OSError, MemoryError) as error:
            raise BadImage(self.name(index), reason(error)) from None
        if len(data) < size:
            raise BadImage(self.name(index), f"{size - len(data)} bytes are missing: the shard was cut short")
        return data

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        shard = self.index.files[bisect_right(self.index.firsts, index) - 1]
        return f"{self.index.root}/{shard}:{self.index.member(index)}"

    def open(self) -> None:
        """Begin with no shard open; a child process does so too."""
        self.process = os.getpid()
        self.shard = lru_cache(OPEN)(partial(Opened, self.index))

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "classes": self.classes, "labels": self.labels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class Opened:
    """A shard as it was listed, open until the last that reads it lets go of it; OSError."""

    file = -1

    def __init__(self, index: ShardIndex, number: int):
        path = f"{index.root}/{index.files[number]}"
        self.file = opened(path)
        size, then = os.fstat(self.file).st_size, index.states[number][0]
        if size != then:
            raise OSError(f"the shard has {size} bytes, and had {then} when it was listed")

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


def open_shards(root: str | None, val: str | None, split: Split) -> ShardSource | None:
    """The training shards are in root/train where there is one, else in root; the others in `val` or beside train.

    A folder that holds both, NAME-train-NNNN.tar and NAME-validation-NNNN.tar, gives each split its own.
    DataError, naming the folder, as open_source.
    """
    if root is None:
        raise DataError("data.root: null; must be the folder of the shards")
    folder = existing(root, "data.root", "shards")
    apart = (folder / "train").is_dir()
    training = filled(folder / "train" if apart else folder, "data.root", "train")
    if split == "train":
        return labelled(training, None)
    if val is not None:
        return labelled(filled(existing(val, "data.val", "shards"), "data.val", "val"), training)
    beside = [folder / name for name in VALIDATION if apart and (folder / name).is_dir()]
    if not apart and of_split(shards_of(str(folder)), "val"):
        beside = [folder]
    return labelled(filled(beside[0], "data.root", "val"), training) if beside else None


def filled(folder: Path, key: str, split: Split) -> ShardIndex:
    """The images of a folder's shards, of one split where their names tell two apart."""
    shards = shards_of(str(folder))
    index = joined(str(folder.absolute()), of_split(shards, split) or shards)
    if len(index):
        return index
    if index.problems:
        path, problem = index.problems[0]
        raise DataError(f"{key}: no image in the {len(shards)} shards of {str(folder)!r}; {path}: {problem}")
    hint = "`engine shards build` makes shards of a folder of images"
    if any(found.files for found in islice(walk(str(folder)), LOOKED)):
        hint = "it holds images as files: say data.source=folder, or make shards of them with `engine shards build`"
    lacks = f"no image in the {len(shards)} shards of" if shards else "no shard *.tar in"
    raise DataError(f"{key}: {lacks} {str(folder)!r}; {hint}")


def of_split(shards: dict[str, Shard], split: Split) -> dict[str, Shard]:
    """Those of one split, where the names tell two apart; else none."""
    words = {name: set(re.split("[^a-z]+", name.lower())) for name in shards}
    sides = {word: {name: shards[name] for name in shards if word in words[name]} for word in ("train", *VALIDATION)}
    others = next((sides[word] for word in VALIDATION if sides[word]), {})
    return (sides["train"] if split == "train" else others) if sides["train"] and others else {}


class Numbering(NamedTuple):
    """What the numbers in shards are called."""

    numbers: Ints  # sorted
    classes: tuple[str, ...]
    named: bool  # by a manifest

    def places(self, index: ShardIndex, own: Numbering) -> Ints:
        """The classes of an index, with a numbering of its own, among these."""
        numbers: list[int] = self.numbers.tolist()
        keys, theirs = (self.classes, own.classes) if self.named and own.named else (numbers, own.numbers.tolist())
        place = {key: number for number, key in enumerate(keys)}
        used = np.searchsorted(own.numbers, np.unique(index.labels)).tolist()
        unknown = next((number for number in used if theirs[number] not in place), None)
        if unknown is not None:
            raise DataError(
                f"{index.root}: class {own.classes[unknown]!r} is not among the {len(self.classes)} classes of the "
                "training images"
            )
        return np.array([place.get(key, UNKNOWN) for key in theirs])[np.searchsorted(own.numbers, index.labels)]


def numbering(index: ShardIndex) -> Numbering | None:
    """By manifest.json, or by the numbers themselves; None where an image has no label."""
    numbers = np.unique(index.labels)
    if numbers[0] == UNKNOWN:
        return None
    classes = manifest_classes(Path(index.root))
    if classes is None:
        width = len(str(numbers[-1]))
        return Numbering(numbers, tuple(f"{number:0{width}d}" for number in numbers.tolist()), False)
    if numbers[-1] >= len(classes):
        raise DataError(f"{index.root}: label {numbers[-1]} of an image; {MANIFEST} has {len(classes)} classes")
    return Numbering(np.arange(len(classes)), classes, True)


def manifest_classes(folder: Path) -> tuple[str, ...] | None:
    """What manifest.json beside the shards, or above the folder of a split, calls the labels 0, 1, ..."""
    for file in (folder / MANIFEST, folder.parent / MANIFEST)[: 2 if folder.name in ("train", *VALIDATION) else 1]:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file}: {reason(error)}; must be JSON, or not there") from None
        classes = told.get("classes") if isinstance(told, dict) else None
        if isinstance(classes, list) and all(isinstance(name, str) for name in classes):
            return tuple(classes)
    return None


def labelled(index: ShardIndex, training: ShardIndex | None) -> ShardSource:
    """The source of an index, with the training images' classes where they have some."""
    own = numbering(index)
    if own is None:
        missing = np.flatnonzero(index.labels == UNKNOWN)
        source = ShardSource(index, None, np.full(len(index), UNKNOWN))
        if len(missing) < len(index):
            text = "%s: no label for %d of %d images, the first of them %s; those of the others are not used"
            log.warning(text, index.root, len(missing), len(index), source.name(int(missing[0])))
        return source
    known = (numbering(training) if training is not None else None) or own
    return ShardSource(index, known.classes, known.places(index, own))
