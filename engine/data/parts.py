"""A data set written part by part, each there whole or not at all, so that a build that was killed goes on."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, RecipeError
from .workers import Stream

PLAN, MANIFEST, CHECKSUMS = ".build.json", "manifest.json", "checksums"
Ticks = Callable[[int], None]
Written = list[tuple[str, str]]  # name and checksum


class Part(NamedTuple):
    """What became of one part: its images, or what kept it from being written."""

    images: int
    problem: str | None = None


class Build(ABC):
    """A data set to be written. Pickled to the processes that write."""

    out: Path

    @property
    @abstractmethod
    def parts(self) -> int:
        """How many."""

    @property
    @abstractmethod
    def plan(self) -> dict[str, Any]:
        """What the images depend on: a build goes on where it is the same."""

    @abstractmethod
    def name(self, part: int) -> str:
        """Of its file or folder, below `out`."""

    @abstractmethod
    def images(self, part: int) -> int:
        """To be written, of a part."""

    @property
    def done(self) -> int:
        """Images of the parts that are complete."""
        return sum(self.images(part) for part in range(self.parts) if self.complete(part))

    def complete(self, part: int) -> bool:
        """Whether a part was written to its end and has not been removed since."""
        return self.checksums(part).exists() and (self.out / self.name(part)).exists()

    def checksums(self, part: int) -> Path:
        """Written last: a part with this file is complete. Its first line is a comment with what is to be told."""
        return self.out / CHECKSUMS / f"{self.name(part).replace('/', '-')}.sha256"


class Writer(ABC):
    """Part -> Part; a function of the build alone."""

    build: Build

    @abstractmethod
    def written(self, part: int, draft: Path) -> tuple[Written, dict[str, Any]]:
        """Write a part there; the checksums of its files, and what the manifest is to tell of it."""

    def __call__(self, part: int) -> Part:
        build, target = self.build, self.build.out / self.build.name(part)
        draft = build.out / f".draft-{build.name(part).replace('/', '-')}"
        try:
            for left in (draft, target):  # by a build that was killed
                remove(left)
            written, told = self.written(part, draft)
            target.parent.mkdir(exist_ok=True)
            draft.replace(target)
            lines = [f"# {json.dumps(told)}", *(f"{digest}  {name}" for name, digest in written)]
            whole(build.checksums(part), "\n".join(lines))
        except OSError as error:
            with suppress(OSError):
                remove(draft)
            return Part(0, f"{target}: {error.strerror or error}")
        return Part(build.images(part))


def write(build: Build, writer: Writer, jobs: int, tick: Ticks) -> list[dict[str, Any]]:
    """Write what is missing, in `jobs` processes; returns what is told of each part.

    `tick` hears of images as they are done. RecipeError where the folder holds something else; DataError where a part
    cannot be written, with nothing of it left.
    """
    prepare(build)
    missing = [part for part in range(build.parts) if not build.complete(part)]
    results: Stream[Part] = Stream(writer, missing, min(jobs, len(missing)) if jobs > 1 else 0)
    try:
        for _, result in zip(missing, results, strict=False):
            if result.problem:
                raise DataError(f"{result.problem}; the same command goes on from the parts that are complete")
            tick(result.images)
    finally:
        results.close()
    return [told(build.checksums(part)) for part in range(build.parts)]


def prepare(build: Build) -> None:
    """The folder, made or known to be of the same build."""
    plan = build.out / PLAN
    try:
        if plan.exists():
            then = json.loads(plan.read_text())
            pairs = ((key, then.get(key), value) for key, value in build.plan.items() if then.get(key) != value)
            changed = "; ".join(f"{key}: {shown(before)} then, {shown(now)} now" for key, before, now in pairs)
            if changed:
                raise RecipeError(f"{build.out}: holds another build ({changed}); choose another folder")
            return
        if build.out.exists() and (not build.out.is_dir() or any(build.out.iterdir())):
            raise RecipeError(f"{build.out}: exists and holds no build of ours; choose an empty folder")
        (build.out / CHECKSUMS).mkdir(parents=True, exist_ok=True)
        whole(plan, json.dumps(build.plan, indent=1))
    except (OSError, ValueError) as error:
        raise DataError(f"{build.out}: {getattr(error, 'strerror', None) or error}") from None


def told(checksums: Path) -> dict[str, Any]:
    """The comment at their beginning."""
    found: dict[str, Any] = json.loads(checksums.read_bytes().partition(b"\n")[0][1:])
    return found


def finish(build: Build, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write manifest.json, last of all: what is given and one checksum over all others. DataError."""
    digest = hashlib.sha256()
    for part in range(build.parts):
        digest.update(build.checksums(part).read_bytes())
    manifest = {**manifest, "sha256": digest.hexdigest()}
    try:
        whole(build.out / MANIFEST, json.dumps(manifest, indent=1))
    except OSError as error:
        raise DataError(f"{build.out / MANIFEST}: {error.strerror or error}") from None
    return manifest


def write_tar(draft: Path, members: Iterable[tuple[str, bytes]]) -> str:
    """A tar file of nothing but names and contents: its checksum."""
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:  # the bytes of USTAR wherever that suffices
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return checksum(draft)


def checksum(path: Path) -> str:
    """SHA-256 of a file; OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def shown(value: Any) -> str:
    """A setting, as people write it."""
    return "none" if value is None else str(value)


def remove(path: Path) -> None:
    """A file, a folder, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def whole(file: Path, text: str) -> None:
    """A file that is there with all of this text and a newline, or not at all."""
    draft = file.with_name(f".{file.name}.draft")
    try:
        draft.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
        draft.replace(file)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
