"""Whether a build is what was written: every file, every count, and nothing beside them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import DataError
from .decode import reason
from .parts import CHECKSUMS, MANIFEST, Ticks, checksum, told
from .samples import listed
from .workers import Stream

UNFINISHED = "the build was not finished; the command that began it goes on"


def faults(out: Path, jobs: int, tick: Ticks) -> list[str]:
    """What is wrong, a line each; `tick` hears of images as they are read. DataError where there is no build."""
    files = checksums_of(out)
    results: Stream[list[str]] = Stream(Verify(out), files, min(jobs, len(files)) if jobs > 1 else 0)
    found = []
    try:
        for file, lines in zip(files, results, strict=False):
            found += lines
            tick(images(file))
    finally:
        results.close()
    return [*found, *strangers(out, files), *of_manifest(out, files)]


def checksums_of(out: Path) -> list[Path]:
    """The checksums of each part, in the order of the parts; DataError."""
    files = [file for file in (out / CHECKSUMS).glob("*.sha256") if not file.name.startswith(".")]
    if not files:
        raise DataError(f"{out}: no {CHECKSUMS}/*.sha256; must be the folder that a build wrote")
    return sorted(files, key=lambda file: (re.sub("[0-9]+", "", file.name), len(file.name), file.name))


def images(file: Path) -> int:
    """How many a part is said to have; 0 where that cannot be read."""
    try:
        return int(told(file)["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class Verify:
    """A file of checksums -> what is wrong with its part."""

    def __init__(self, out: Path):
        self.out = out

    def __call__(self, file: Path) -> list[str]:
        try:
            count, lines = int(told(file)["images"]), file.read_text().splitlines()[1:]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{file}: {reason(error)}"]
        pairs = [line.partition("  ") for line in lines]
        return [text for digest, _, name in pairs if (text := self.fault(self.out / name, digest, count))]

    def fault(self, path: Path, digest: str, count: int) -> str:
        """Of one file; "" where there is none."""
        try:
            if checksum(path) != digest:
                problem = listed(str(path)).problem if path.suffix == ".tar" else ""
                return f"{path}: not the bytes that were written" + (f" ({problem})" if problem else "")
        except OSError as error:
            return f"{path}: {reason(error)}"
        held = len(listed(str(path)).offsets) if path.suffix == ".tar" else count
        return f"{path}: {held} images, and {count} were counted" if held != count else ""


def strangers(out: Path, files: list[Path]) -> list[str]:
    """Shards that no checksum tells of: training would see them."""
    known = {file.name.removesuffix(".sha256") for file in files}
    found = [path for pattern in ("*.tar", "*/*.tar") for path in out.glob(pattern) if not path.name.startswith(".")]
    return [
        f"{path}: not a part of this build"
        for path in sorted(found)
        if path.relative_to(out).as_posix().replace("/", "-") not in known
    ]


def of_manifest(out: Path, files: list[Path]) -> list[str]:
    """What manifest.json says otherwise."""
    file = out / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        parts, total, digest = manifest["parts"], manifest["images"], manifest["sha256"]
    except FileNotFoundError:
        return [f"{file}: missing; {UNFINISHED}"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{file}: {reason(error)}; must be the manifest of a build"]
    if parts != len(files):
        return [f"{file}: {parts} parts, and there are checksums of {len(files)}"]
    held = sum(map(images, files))
    if held != total:
        return [f"{file}: {total} images, and {held} were counted in the parts"]
    together = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [] if together == digest else [f"{file}: {CHECKSUMS}/ are not those of the build"]
