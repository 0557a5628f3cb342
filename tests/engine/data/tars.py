"""Tar files as they are found, and the few lines in which tests write them."""

import io
import os
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from .conftest import picture

Members = Iterable[tuple[str, bytes]]


def jpeg(number: int, suffix: str = "JPEG") -> bytes:
    """A picture of its own."""
    file = io.BytesIO()
    picture(number).save(file, suffix, **({"quality": 95} if suffix == "JPEG" else {}))
    return file.getvalue()


def samples(count: int, first: int = 0, classes: int = 3) -> list[tuple[str, bytes]]:
    """NNNN.jpg and NNNN.cls."""
    numbers = range(first, first + count)
    return [pair for n in numbers for pair in ((f"{n:04d}.jpg", jpeg(n)), (f"{n:04d}.cls", b"%d" % (n % classes)))]


def write(path: Path, members: Members, format: int = tarfile.PAX_FORMAT, old: bool = True) -> Path:
    """A tar file; `old`: as if nothing had been written for an hour, since when a list of it is trusted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    if old:
        settle(path)
    return path


def settle(path: Path, ago: float = 3600) -> None:
    os.utime(path, (time.time() - ago,) * 2)
