"""The images of one tar shard, found from its headers and labels without reading an image."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .decode import reason
from .index import SUFFIXES
from .tar import Broken, Bytes, Member, members

UNKNOWN = -1  # the label of an image that has none
CHANGED = (-1, -1)  # the state of a shard that is to be listed again in any case
Ints = NDArray[np.int64]


class Shard(NamedTuple):
    """The images of one shard in their order."""

    state: tuple[int, int]  # bytes, mtime in ns
    offsets: Ints  # [N] of the first byte in the shard
    sizes: Ints  # [N] bytes
    labels: Ints  # [N] the number in it, or UNKNOWN
    lengths: Ints  # [N] of the names
    names: NDArray[np.uint8]  # end to end
    doubled: int  # samples with more than one image
    problem: str  # "" where it was read from end to end


def listed(path: str) -> Shard:
    """The images of a shard up to its end or to what ends it early."""
    found, found_state, problem = Listing(), CHANGED, ""
    try:
        file = opened(path)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Broken("not a file")
            found_state = status.st_size, status.st_mtime_ns
            found.fill(Bytes(file, status.st_size))
        finally:
            os.close(file)
    except (Broken, OSError) as error:
        problem = reason(error)
    return found.shard(found_state, problem)


def opened(path: str) -> int:
    """A file to read parts of; OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe of that name must not be waited for
    if hasattr(os, "posix_fadvise"):  # the system would read ahead, which from header to header is all of the file
        with suppress(OSError):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    return file


class Listing:
    """Members, gathered into samples: neighbours whose names agree up to the first dot of the last part."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []
        self.names: list[bytes] = []
        self.doubled = 0

    def fill(self, archive: Bytes) -> None:
        """All samples; those before the end that Broken tells of."""
        self.archive = archive
        before = b""
        self.begin()
        for member in members(archive):
            base = member.name[member.name.rfind(b"/") + 1 :]
            stem, dot, suffix = base.partition(b".")
            if not stem or not dot:
                continue
            key = member.name[: -len(suffix) - 1] if suffix else member.name[:-1]
            if key != before:
                self.end()
                before = key
            self.add(member, suffix.lower())
        self.end()

    def begin(self) -> None:
        self.image: Member | None = None
        self.images = 0
        self.label: int | None = None
        self.described: Member | None = None

    def add(self, member: Member, suffix: bytes) -> None:
        if (b"." + suffix).endswith(SUFFIXES):
            self.image = self.image or member
            self.images += 1
        elif suffix == b"cls":
            self.label = whole_number(self.archive.text(member.offset, member.size))
        elif suffix == b"json":
            self.described = member

    def end(self) -> None:
        """Of a sample."""
        if self.image is not None:
            if self.label is None and self.described is not None:
                self.label = described(self.archive.text(self.described.offset, self.described.size))
            label = UNKNOWN if self.label is None else self.label
            self.rows.append((self.image.offset, self.image.size, label))
            self.names.append(self.image.name)
            self.doubled += self.images > 1
        self.begin()

    def shard(self, state: tuple[int, int], problem: str) -> Shard:
        offsets, sizes, labels = np.array(self.rows, np.int64).reshape(-1, 3).T.copy()
        lengths = np.fromiter(map(len, self.names), np.int64, len(self.names))
        text = np.frombuffer(b"".join(self.names), np.uint8)
        return Shard(state, offsets, sizes, labels, lengths, text, self.doubled, problem)


def whole_number(text: bytes) -> int | None:
    """A label; None where it is none."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if 0 <= value < 2**63 else None


def described(text: bytes) -> int | None:
    """The label in the description of a sample: "label", or else "cls"."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = told.get("label", told.get("cls")) if isinstance(told, dict) else None
    return whole_number(str(value).encode()) if isinstance(value, int | str) else None
