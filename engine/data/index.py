"""A list of a million files that one object holds, a worker does not copy, and the next run does not make again."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
SETTLED_NS = 2_000_000_000  # a folder changed more recently may change again within one tick of its clock
SUFFIXES = tuple(b".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif".split())
log = logging.getLogger("vitkiln")


@dataclass(frozen=True, slots=True)
class Index:
    """The images below `root`, sorted. Text lies end to end in one array of bytes: no object for each file."""

    root: str
    text: NDArray[np.uint8]  # paths relative to the root
    ends: NDArray[np.int64]  # [N] where each path ends in `text`
    labels: NDArray[np.int32]  # [N] index into classes, or -1
    classes: tuple[str, ...] | None  # first-level folders that hold images; None where the root itself holds some

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        relative = self.text[start : self.ends[index]].tobytes()
        return os.path.join(self.root, os.fsdecode(relative))  # noqa: PTH118  called for every image


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder as it was found: the state tells whether it has changed since."""

    path: bytes  # relative to the root; b"" is the root
    state: tuple[int, int, int]  # device, inode, mtime in ns
    files: tuple[bytes, ...]


def open_index(root: str) -> Index:
    """The index of an existing folder, from the cache where no folder below it has changed since."""
    root = os.path.abspath(root)  # noqa: PTH100  resolve() would follow a link that the user may point elsewhere
    cache = cache_file(root)
    with suppress(Exception):  # a cache that is missing, torn or of another version is made again
        return load(root, cache)
    started = time.time_ns()
    folders = list(walk(root))
    index = build(root, folders)
    if max((folder.state[2] for folder in folders), default=started) + SETTLED_NS < started:
        save(index, folders, cache)
    return index


def cache_file(root: str) -> Path:
    """Where the index of a folder is kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vitkiln" / f"index-{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.npz"


def walk(root: str) -> Iterator[Folder]:
    """Every folder that can be read, parents first, sorted; links are followed, but never to a folder above them."""
    start = os.fsencode(root)
    pending: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(b"", frozenset())]
    while pending:
        relative, above = pending.pop()
        try:
            status = os.stat(os.path.join(start, relative))  # noqa: PTH116, PTH118  bytes
            here = status.st_dev, status.st_ino
            if here in above:
                continue
            files, folders = listing(os.path.join(start, relative))  # noqa: PTH118
        except OSError as error:
            log.warning("%s: left out, %s", os.fsdecode(os.path.join(start, relative)), error.strerror)  # noqa: PTH118
            continue
        yield Folder(relative, (*here, status.st_mtime_ns), files)
        prefix = relative + b"/" if relative else b""
        pending += [(prefix + name, above | {here}) for name in reversed(folders)]


def listing(folder: bytes) -> tuple[tuple[bytes, ...], list[bytes]]:
    """Names of the images and of the folders in a folder, both sorted, nothing hidden."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if is_folder(entry):
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                files.append(entry.name)
    return tuple(sorted(files)), sorted(folders)


def is_folder(entry: os.DirEntry[bytes]) -> bool:
    """Also by a link; one that leads nowhere, or round in a circle, is no folder, and no reason to miss the others."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def build(root: str, folders: list[Folder]) -> Index:
    """The index of the folders that `walk` found."""
    first = [folder.path.split(b"/", 1)[0] for folder in folders]
    counts = [len(folder.files) for folder in folders]
    paths = [(folder.path + b"/" if folder.path else b"") + name for folder in folders for name in folder.files]
    names = sorted({name for name, count in zip(first, counts, strict=True) if count})
    flat = not names or b"" in names
    number = {} if flat else {name: label for label, name in enumerate(names)}
    return Index(
        root,
        np.frombuffer(b"".join(paths), np.uint8),
        np.cumsum(np.fromiter(map(len, paths), np.int64, len(paths)), dtype=np.int64),
        np.repeat(np.array([number.get(name, -1) for name in first], np.int32), counts),
        None if flat else tuple(os.fsdecode(name) for name in names),
    )


def save(index: Index, folders: list[Folder], cache: Path) -> None:
    """For the next run."""
    arrays = {
        "version": np.array(VERSION),
        "folders": _packed(folder.path for folder in folders),
        "states": np.array([folder.state for folder in folders], np.int64),
        "text": index.text,
        "ends": index.ends,
        "labels": index.labels,
        "classes": _packed(map(os.fsencode, index.classes or ())),
    }
    keep(arrays, cache)


def keep(arrays: dict[str, NDArray[Any]], cache: Path) -> None:
    """Write beside the name and rename, so that a reader never sees half of it; a cache is never worth an error."""
    temporary = None
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=cache.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(cache)
    except OSError as error:
        log.info("%s: the list of files is not kept there, %s", cache, error.strerror)
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load(root: str, cache: Path) -> Index:
    """The index as it was written; an error of any kind where a folder has changed or the file is not one of ours."""
    with np.load(cache, allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    start = os.fsencode(root)
    found = [os.stat(os.path.join(start, path)) for path in _unpacked(stored["folders"])]  # noqa: PTH116, PTH118
    states = np.array([(s.st_dev, s.st_ino, s.st_mtime_ns) for s in found], np.int64)
    if stored["version"] != VERSION or not np.array_equal(states, stored["states"]):
        raise ValueError("changed since")
    classes = tuple(os.fsdecode(name) for name in _unpacked(stored["classes"]))
    return Index(root, stored["text"], stored["ends"], stored["labels"], classes or None)


def _packed(names: Iterator[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(name + b"\0" for name in names), np.uint8)


def _unpacked(array: NDArray[np.uint8]) -> list[bytes]:
    return array.tobytes().split(b"\0")[:-1]
