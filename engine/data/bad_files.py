"""The images that a run could not use: told once, and kept in a file beside the run."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("vitkiln")


class BadFiles(dict[str, str]):
    """Path -> reason. `keep` names a file to which what is new is appended, a line `path<TAB>reason` each."""

    file: Path | None = None

    def keep(self, file: Path) -> None:
        """From now on, and what is known by now."""
        self.file, self.written = file, known(file) if file.exists() else set()
        for path, reason in self.items():
            self.write(path, reason)

    def add(self, path: str, reason: str, then: str = "another image takes its place") -> None:
        """Tell of a file, unless it was told before."""
        if path in self:
            return
        self[path] = reason
        log.warning("%s: %s; %s", path, reason, then)
        self.write(path, reason)

    def write(self, path: str, reason: str) -> None:
        if self.file is not None and path not in self.written:
            with self.file.open("a", errors="surrogateescape") as lines:  # a line at a time: ranks may share the file
                lines.write(f"{path}\t{reason}\n")


def known(file: Path) -> set[str]:
    """Paths that stand in the file already, from before a restart."""
    return {line.rpartition("\t")[0] for line in file.read_text(errors="surrogateescape").splitlines()}
