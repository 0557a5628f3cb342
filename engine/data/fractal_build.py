"""Formula-driven images as files: folders or tar shards, part by part, so that a build that was killed goes on."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..errors import DataError, RecipeError
from ..settings.formulas import Formulas
from .fractal import Fractals
from .source import BadImage
from .workers import Stream

SHARD = 10_000  # images
PLAN, MANIFEST, CHECKSUMS = ".build.json", "manifest.json", "checksums"
COMPRESSION = 3  # of PNG; more costs time and saves little of random bits
Ticks = Callable[[int], None]
Written = list[tuple[str, str]]  # name and checksum


class Part(NamedTuple):
    """What became of one part: its images, or what kept it from being written."""

    images: int
    problem: str | None = None


@dataclass(frozen=True)
class Build:
    """A data set to be written: `parts` of it, each of some categories, each there whole or not at all."""

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
        """What the images depend on."""
        told = self.data.model_dump(mode="json", exclude={"fractal_cache"})
        return {"format": "tar" if self.shards else "folder", "seed": self.seed, **told}

    def members(self, part: int) -> Iterator[tuple[int, int]]:
        """Category and instance of each image, the categories taking turns."""
        first = part * self.group
        categories = range(first, min(first + self.group, self.data.categories))
        return ((category, instance) for instance in range(self.data.instances) for category in categories)

    def name(self, part: int) -> str:
        return f"shard-{part:06d}.tar" if self.shards else f"{part:05d}"

    @property
    def done(self) -> int:
        """Images of the parts that are complete."""
        return sum(self.images(part) for part in range(self.parts) if self.checksums(part).exists())

    def images(self, part: int) -> int:
        """Of a part."""
        return min(self.group, self.data.categories - part * self.group) * self.data.instances

    def checksums(self, part: int) -> Path:
        """Written last: a part with this file is complete."""
        return self.out / CHECKSUMS / f"{self.name(part)}.sha256"


class Writer:
    """Part -> Part; a function of the build alone."""

    def __init__(self, build: Build):
        self.build = build
        self.source = Fractals(build.data, build.seed)

    def __call__(self, part: int) -> Part:
        build, target = self.build, self.build.out / self.build.name(part)
        draft = build.out / f".draft-{build.name(part)}"
        self.lost: list[str] = []
        counted = self.source.artist.replaced
        try:
            for left in (draft, target):  # by a build that was killed
                remove(left)
            written = (self.shard if build.shards else self.folder)(part, draft)
            draft.replace(target)
            replaced = self.source.artist.replaced - counted
            told = {"images": build.images(part) - len(self.lost), "replaced": replaced, "not_drawn": self.lost}
            lines = [f"# {json.dumps(told)}", *(f"{digest}  {name}" for name, digest in written)]
            whole(build.checksums(part), "\n".join(lines))
        except OSError as error:
            with suppress(OSError):
                remove(draft)
            return Part(0, f"{target}: {error.strerror or error}")
        return Part(build.images(part))

    def images(self, part: int) -> Iterator[tuple[int, str, bytes]]:
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
        for _, name, png in self.images(part):
            (draft / f"{name}.png").write_bytes(png)
            written.append((f"{self.build.name(part)}/{name}.png", hashlib.sha256(png).hexdigest()))
        return written

    def shard(self, part: int, draft: Path) -> Written:
        """A tar file of samples NAME.png and NAME.cls."""
        with tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as archive:
            for category, name, png in self.images(part):
                for suffix, content in (("cls", str(category).encode()), ("png", png)):
                    entry = tarfile.TarInfo(f"{name}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        digest = hashlib.sha256()
        with draft.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return [(self.build.name(part), digest.hexdigest())]


def remove(path: Path) -> None:
    """A file, a folder, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(build: Build, jobs: int, tick: Ticks) -> dict[str, Any]:
    """Write what is missing, in `jobs` processes; returns the manifest, which is written last.

    `tick` hears of images as they are done. RecipeError where the folder holds something else; DataError where a part
    cannot be written, with nothing of it left.
    """
    writer = Writer(build)
    prepare(build)
    missing = [part for part in range(build.parts) if not build.checksums(part).exists()]
    results: Stream[Part] = Stream(writer, missing, min(jobs, len(missing)) if jobs > 1 else 0)
    try:
        for _, result in zip(missing, results, strict=False):
            if result.problem:
                raise DataError(f"{result.problem}; the same command goes on from the parts that are complete")
            tick(result.images)
    finally:
        results.close()
    return finished(build)


def prepare(build: Build) -> None:
    """The folder, made or known to be of the same build."""
    plan = build.out / PLAN
    try:
        if plan.exists():
            then = json.loads(plan.read_text())
            pairs = ((key, then.get(key), value) for key, value in build.plan.items() if then.get(key) != value)
            changed = "; ".join(f"{key}: {before} then, {now} now" for key, before, now in pairs)
            if changed:
                raise RecipeError(f"{build.out}: holds another build ({changed}); choose another folder")
            return
        if build.out.exists() and (not build.out.is_dir() or any(build.out.iterdir())):
            raise RecipeError(f"{build.out}: exists and holds no build of ours; choose an empty folder")
        (build.out / CHECKSUMS).mkdir(parents=True, exist_ok=True)
        whole(plan, json.dumps(build.plan, indent=1))
    except (OSError, ValueError) as error:
        raise DataError(f"{build.out}: {getattr(error, 'strerror', None) or error}") from None


def finished(build: Build) -> dict[str, Any]:
    """Write manifest.json: the settings, the counts, and one checksum over all others."""
    digest, images, replaced = hashlib.sha256(), 0, 0
    lost: list[str] = []
    for part in range(build.parts):
        text = build.checksums(part).read_bytes()
        digest.update(text)
        told = json.loads(text.partition(b"\n")[0][1:])
        images, replaced, lost = images + told["images"], replaced + told["replaced"], lost + told["not_drawn"]
    counts = {"images": images, "parts": build.parts, "replaced": replaced, "not_drawn": lost}
    manifest = {**build.plan, **counts, "sha256": digest.hexdigest()}
    try:
        whole(build.out / MANIFEST, json.dumps(manifest, indent=1))
    except OSError as error:
        raise DataError(f"{build.out / MANIFEST}: {error.strerror or error}") from None
    return manifest


def whole(file: Path, text: str) -> None:
    """A file that is there with all of this text and a newline, or not at all."""
    draft = file.with_name(f".{file.name}.draft")
    try:
        draft.write_text(text + "\n")
        draft.replace(file)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
