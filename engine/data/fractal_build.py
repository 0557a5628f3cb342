"""Formula-driven images as files: folders or tar shards."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..settings.formulas import Formulas
from . import parts
from .fractal import Fractals
from .parts import Ticks, Written
from .source import BadImage

SHARD = 10_000  # images
COMPRESSION = 3  # of PNG; more costs time and saves little of random bits


@dataclass(frozen=True)
class Build(parts.Build):
    """A data set to be written: parts of some categories each."""

    out: Path
    data: Formulas
    seed: int
    shards: bool

    @property
    def group(self) -> int:
        """Categories of a part."""
        return max(1, SHARD // self.data.instances) if self.shards else 1

    @property
    def parts(self) -> int:
        return -(-self.data.categories // self.group)

    @property
    def plan(self) -> dict[str, Any]:
        told = self.data.model_dump(mode="json", exclude={"fractal_cache"})
        return {"format": "tar" if self.shards else "folder", "seed": self.seed, **told}

    def members(self, part: int) -> Iterator[tuple[int, int]]:
        """Category and instance of each image, the categories taking turns."""
        first = part * self.group
        categories = range(first, min(first + self.group, self.data.categories))
        return ((category, instance) for instance in range(self.data.instances) for category in categories)

    def name(self, part: int) -> str:
        return f"shard-{part:06d}.tar" if self.shards else f"{part:05d}"

    def images(self, part: int) -> int:
        return min(self.group, self.data.categories - part * self.group) * self.data.instances


class Writer(parts.Writer):
    """Draws what it writes."""

    def __init__(self, build: Build):
        self.build: Build = build
        self.source = Fractals(build.data, build.seed)

    def written(self, part: int, draft: Path) -> tuple[Written, dict[str, Any]]:
        self.lost: list[str] = []
        counted = self.source.artist.replaced
        written = (self.shard if self.build.shards else self.folder)(part, draft)
        replaced = self.source.artist.replaced - counted
        images = self.build.images(part) - len(self.lost)
        return written, {"images": images, "replaced": replaced, "not_drawn": self.lost}

    def drawn(self, part: int) -> Iterator[tuple[int, str, bytes]]:
        """Category, name and PNG of what can be drawn."""
        for category, instance in self.build.members(part):
            name = f"{category:05d}_{instance:05d}"
            try:
                pixels = self.source.pixels(category * self.build.data.instances + instance)
            except BadImage:
                self.lost.append(name)
                continue
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG", compress_level=COMPRESSION)
            yield category, name, file.getvalue()

    def folder(self, part: int, draft: Path) -> Written:
        """A folder of images."""
        written = []
        draft.mkdir(parents=True)
        for _, name, png in self.drawn(part):
            (draft / f"{name}.png").write_bytes(png)
            written.append((f"{self.build.name(part)}/{name}.png", hashlib.sha256(png).hexdigest()))
        return written

    def shard(self, part: int, draft: Path) -> Written:
        """A tar file of samples NAME.png and NAME.cls."""
        return [(self.build.name(part), parts.write_tar(draft, self.members(part)))]

    def members(self, part: int) -> Iterator[tuple[str, bytes]]:
        """The files of a shard."""
        for category, name, png in self.drawn(part):
            yield f"{name}.cls", str(category).encode()
            yield f"{name}.png", png


def write(build: Build, jobs: int, tick: Ticks) -> dict[str, Any]:
    """Write what is missing and return the manifest: the settings and the counts. See parts.write."""
    told = parts.write(build, Writer(build), jobs, tick)
    counts = {
        "images": sum(part["images"] for part in told),
        "parts": build.parts,
        "replaced": sum(part["replaced"] for part in told),
        "not_drawn": [name for part in told for name in part["not_drawn"]],
    }
    return parts.finish(build, {**build.plan, **counts})
