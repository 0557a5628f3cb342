"""The images that a run could not use: told once, and kept in a file beside the run."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("vitkiln")


class BadFiles(dict[str, str]):
    """Path -> reason. With a file, what is new is also appended there, a line `path<TAB>reason` each."""

    def __init__(self, file: Path | None = None):
        super().__init__()
        self.file = file
        self.written = known(file) if file is not None and file.exists() else set()

    def add(self, path: str, reason: str, then: str = "another image takes its place") -> None:
        """Tell of a file, unless it was told before."""
        if path in self:
            return
        self[path] = reason
        log.warning("%s: %s; %s", path, reason, then)
        if self.file is not None and path not in self.written:
            with self.file.open("a") as lines:  # a line at a time: ranks may share the file
                lines.write(f"{path}\t{reason}\n")


def known(file: Path) -> set[str]:
    """Paths that stand in the file already, from before a restart."""
    return {line.rpartition("\t")[0] for line in file.read_text(errors="surrogateescape").splitlines()}
