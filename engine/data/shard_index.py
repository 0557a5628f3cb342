"""Where each image of a folder of tar shards lies, listed once and kept: a changed shard alone is listed again."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cores import cores
from .index import SETTLED_NS, cache_file, keep
from .samples import CHANGED, Ints, Shard, listed

VERSION = 1
AT_ONCE = 8  # shards that a process lists
log = logging.getLogger("vitkiln")


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The images of some shards of a folder, one shard after the other. No object for each image."""

    root: str
    files: tuple[str, ...]  # names of the shards
    states: tuple[tuple[int, int], ...]
    firsts: tuple[int, ...]  # the number of each shard's first image
    offsets: Ints
    sizes: Ints
    labels: Ints
    ends: Ints  # [N] where each name ends in `text`
    text: NDArray[np.uint8]
    problems: tuple[tuple[str, str], ...]  # path and reason

    def __len__(self) -> int:
        return len(self.offsets)

    def member(self, index: int) -> str:
        """The name of an image in its shard."""
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[start : self.ends[index]].tobytes())


def shards_of(root: str) -> dict[str, Shard]:
    """The shards *.tar of a folder by their sorted names, from the cache where they have not changed since."""
    root = os.path.abspath(root)  # noqa: PTH100  as in open_index
    names = sorted(path.name for path in Path(root).glob("*.tar") if not path.name.startswith("."))
    cache = cache_file(os.path.join(root, "*.tar"))  # noqa: PTH118  a name that no folder of images has
    known: dict[str, Shard] = {}
    with suppress(Exception):  # a cache that is missing, torn or of another version is made again
        known = load(cache)
    started = time.time_ns()
    now = {name: state(Path(root) / name) for name in names}
    stale = [name for name in names if name not in known or known[name].state != now[name] or now[name] == CHANGED]
    if stale:
        log.info("%s: listing the images of %d shards", root, len(stale))
    for name, shard in zip(stale, list_all([f"{root}/{name}" for name in stale]), strict=True):
        known[name] = shard
        if shard.doubled:
            text = "%s/%s: %d samples hold more than one image; the first of each is used"
            log.warning(text, root, name, shard.doubled)
    found = {name: known[name] for name in names}
    if stale:
        settled = {
            name: shard if shard.state[1] + SETTLED_NS < started else shard._replace(state=CHANGED)
            for name, shard in found.items()
        }
        keep(packed(settled), cache)
    return found


def state(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change: what tells that a shard is another one."""
    try:
        status = path.stat()
    except OSError:
        return CHANGED
    return status.st_size, status.st_mtime_ns


def list_all(paths: list[str]) -> Iterator[Shard]:
    """The shards in their order, many at a time: each header must be waited for before the next is known."""
    groups = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
    most = min(cores(), len(groups))
    if most < 2:
        return chain.from_iterable(map(listed_together, groups))
    from .workers import Stream

    return chain.from_iterable(Stream[list[Shard]](listed_together, groups, most))


def listed_together(paths: list[str]) -> list[Shard]:
    """Some shards."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(listed, paths))


def joined(root: str, shards: dict[str, Shard]) -> ShardIndex:
    """One list of all their images."""

    def column(of: Callable[[Shard], Any], dtype: type = np.int64) -> Any:
        return np.concatenate([np.empty(0, dtype), *map(of, shards.values())])

    counts = [len(shard.offsets) for shard in shards.values()]
    return ShardIndex(
        root,
        tuple(shards),
        tuple(shard.state for shard in shards.values()),
        tuple((np.cumsum([0, *counts])[:-1]).tolist()),
        column(lambda shard: shard.offsets),
        column(lambda shard: shard.sizes),
        column(lambda shard: shard.labels),
        np.cumsum(column(lambda shard: shard.lengths)),
        column(lambda shard: shard.names, np.uint8),
        tuple((f"{root}/{name}", shard.problem) for name, shard in shards.items() if shard.problem),
    )


def packed(shards: dict[str, Shard]) -> dict[str, NDArray[Any]]:
    """The arrays of a cache."""
    index = joined("", shards)
    about = [(name, *shard.state, len(shard.offsets), shard.doubled, shard.problem) for name, shard in shards.items()]
    return {
        "version": np.array(VERSION),
        "shards": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "rows": np.stack([index.offsets, index.sizes, index.labels, np.diff(index.ends, prepend=0)]),
        "text": index.text,
    }


def load(cache: Path) -> dict[str, Shard]:
    """The shards as they were kept; an error of any kind where the file is not one of ours."""
    with np.load(cache, allow_pickle=False) as arrays:
        version, about, rows, text = (arrays[name] for name in ("version", "shards", "rows", "text"))
    if version != VERSION:
        raise ValueError("another version")
    found: dict[str, Shard] = {}
    first = letter = 0
    for name, size, mtime, count, doubled, problem in json.loads(about.tobytes()):
        offsets, sizes, labels, lengths = rows[:, first : first + count]
        names = text[letter : letter + int(lengths.sum())]
        found[name] = Shard((size, mtime), offsets, sizes, labels, lengths, names, doubled, problem)
        first, letter = first + count, letter + len(names)
    return found
