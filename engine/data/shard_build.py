"""From a folder of images to WebDataset shards in which the classes mix: each file as it is, or made smaller."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from . import parts
from .bad_files import line
from .decode import picture
from .folder import FolderSource, open_folder
from .parts import Ticks, Written
from .source import BadImage

BAD_FILES = "bad_files.txt"
LONGEST = 65_500  # pixels of a side of a JPEG


@dataclass(frozen=True)
class Settings:
    """What is made of the images. A shard ends after `samples` of them, or else before it has more than `bytes`."""

    short_side: int | None = None  # pixels; larger images are made so small, the others are copied as they are
    quality: int | None = None  # of the JPEG of those made smaller
    samples: int | None = 10_000
    bytes: int | None = None
    seed: int | None = 0  # None: in the order of the folder


class Range(NamedTuple):
    """The images of a shard: [start, stop) of the order of a split."""

    split: str
    number: int
    start: int
    stop: int


class ShardBuild(parts.Build):
    """The shards of a folder: of root/train and root/val in folders of their own where there are such. DataError."""

    def __init__(self, root: Path, out: Path, settings: Settings):
        self.root, self.out, self.settings = root, out, settings
        train, val = (open_folder(str(root), None, split) for split in ("train", "val"))
        assert train is not None
        apart = (root.expanduser() / "train").is_dir()
        self.sources: dict[str, FolderSource] = {"train" if apart else "": train, **({"val": val} if val else {})}
        self.states = {split: states(source) for split, source in self.sources.items()}
        self.orders = {split: self.order(len(source)) for split, source in self.sources.items()}
        self.ranges = [part for split in self.sources for part in self.cut(split)]

    def order(self, count: int) -> NDArray[np.int64]:
        """The images of a split as they follow each other."""
        if self.settings.seed is None:
            return np.arange(count)
        return np.random.Generator(np.random.Philox(key=self.settings.seed)).permutation(count)

    def cut(self, split: str) -> Iterator[Range]:
        """Into shards."""
        order, start, number = self.orders[split], 0, 0
        ends = np.cumsum(self.states[split][order, 0])
        while start < len(order):
            stop = start + (self.settings.samples or 0)
            if self.settings.bytes is not None:
                before = int(ends[start - 1]) if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, before + self.settings.bytes, side="right")))
            yield Range(split, number, start, min(stop, len(order)))
            start, number = stop, number + 1

    @property
    def parts(self) -> int:
        return len(self.ranges)

    @property
    def total(self) -> int:
        return sum(map(len, self.sources.values()))

    @property
    def plan(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for split, source in self.sources.items():
            digest.update(source.index.text.tobytes() + source.index.ends.tobytes() + self.states[split].tobytes())
        size = sum(int(found[:, 0].sum()) for found in self.states.values())
        return {**asdict(self.settings), "images": self.total, "image_bytes": size, "files": digest.hexdigest()[:16]}

    def name(self, part: int) -> str:
        split, number, _, _ = self.ranges[part]
        return f"{split}/shard-{number:06d}.tar".lstrip("/")

    def images(self, part: int) -> int:
        return self.ranges[part].stop - self.ranges[part].start


class Writer(parts.Writer):
    """Copies what can be decoded, or makes it smaller."""

    def __init__(self, build: ShardBuild):
        self.build: ShardBuild = build

    def written(self, part: int, draft: Path) -> tuple[Written, dict[str, Any]]:
        self.bad: list[tuple[str, str]] = []
        digest = parts.write_tar(draft, self.members(part))
        told = {"images": self.build.images(part) - len(self.bad), "bad": self.bad}
        return [(self.build.name(part), digest)], told

    def members(self, part: int) -> Iterator[tuple[str, bytes]]:
        """NAME.jpg, or what the image is, and NAME.cls. NAME is its path below the split, without further dots."""
        split, _, start, stop = self.build.ranges[part]
        source, names = self.build.sources[split], set[str]()
        for index in self.build.orders[split][start:stop].tolist():
            path = os.path.relpath(source.name(index), source.index.root)
            try:
                data, suffix = self.content(source, index)
            except BadImage as error:
                self.bad.append((os.path.normpath(f"{split}/{path}") if split else path, error.reason))
                continue
            folder, slash, base = path.rpartition("/")
            stem, kind = os.path.splitext(base)  # noqa: PTH122  text
            name = folder + slash + stem.replace(".", "_")
            if name in names:  # a.b.jpg beside a_b.jpg, or a.jpg beside a.png
                name = f"{name}-{index}"
            names.add(name)
            yield name + (suffix or kind), data
            if source.classes is not None:
                yield f"{name}.cls", str(source.label(index)).encode()

    def content(self, source: FolderSource, index: int) -> tuple[bytes, str]:
        """The file to write, and its suffix if that is another one; BadImage."""
        data, settings = source.read(index), self.build.settings
        image = picture(data, source.name(index))
        short, wanted = min(image.size), settings.short_side or min(image.size)
        width, height = (round(side * wanted / short) for side in image.size)
        if short <= wanted or max(width, height) > LONGEST:
            return data, ""
        file = io.BytesIO()
        smaller = image.resize((width, height), Image.Resampling.BICUBIC)
        smaller.save(file, "JPEG", quality=settings.quality)
        return file.getvalue(), ".jpg"


def states(source: FolderSource) -> NDArray[np.int64]:
    """Bytes and time of the last change of each file, zeros where it is gone: [N, 2]"""
    found = np.zeros((len(source), 2), np.int64)
    for index in range(len(source)):
        try:
            status = os.stat(source.name(index))  # noqa: PTH116  of every image
        except OSError:
            continue
        found[index] = status.st_size, status.st_mtime_ns
    return found


def write(build: ShardBuild, jobs: int, tick: Ticks) -> dict[str, Any]:
    """Write what is missing and return the manifest: classes, settings and counts. See parts.write."""
    told = parts.write(build, Writer(build), jobs, tick)
    bad = [pair for part in told for pair in part["bad"]]
    counts = {split: {"images": 0, "shards": 0} for split in build.sources}
    for part, (split, *_) in zip(told, build.ranges, strict=True):
        counts[split]["images"] += part["images"]
        counts[split]["shards"] += 1
    if bad:
        try:
            parts.whole(build.out / BAD_FILES, "\n".join(line(path, reason) for path, reason in bad))
        except OSError as error:
            raise DataError(f"{build.out / BAD_FILES}: {error.strerror or error}") from None
    images = sum(count["images"] for count in counts.values())
    splits = {"splits": counts} if "train" in counts else {}
    settings = {"format": "shards", "settings": asdict(build.settings)}
    about = {"images": images, "parts": build.parts, **splits, "bad": len(bad)}
    return parts.finish(build, {**settings, **about, "classes": next(iter(build.sources.values())).classes})
