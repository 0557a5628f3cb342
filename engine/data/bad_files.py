"""The images that a run could not use: told once, and kept in a file beside the run."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("vitkiln")
BREAKS = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r"})  # names may hold what ends a field or a line


class BadFiles(dict[str, str]):
    """Path -> reason. `keep` names a file to which what is new is appended, a line `path<TAB>reason` each."""

    file: Path | None = None

    def keep(self, file: Path) -> None:
        """From now on, and what is known by now."""
        self.file, self.written = file, known(file)
        for path, reason in self.items():
            self.write(path, reason)

    def add(self, path: str, reason: str, then: str = "another image takes its place") -> None:
        """Tell of a file, unless it was told before."""
        if path in self:
            return
        self[path] = reason
        log.warning("%s: %s; %s", shown(path), shown(reason), then)
        self.write(path, reason)

    def write(self, path: str, reason: str) -> None:
        if self.file is None or path.translate(BREAKS) in self.written:
            return
        try:
            with self.file.open("a", encoding="utf-8", errors="surrogateescape") as lines:
                lines.write(f"{line(path, reason)}\n")  # a line at a time: ranks may share the file
        except OSError as error:  # a full disk: the run can do without
            log.warning("%s: %s; what cannot be read is no longer listed there", self.file, error.strerror)
            self.file = None


def line(path: str, reason: str) -> str:
    """Of a list of bad files."""
    return f"{path.translate(BREAKS)}\t{reason.translate(BREAKS)}"


def known(file: Path) -> set[str]:
    """Paths that stand in the file already, from before a restart."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return set()
    return {listed.rpartition("\t")[0] for listed in text.split("\n")}


def shown(text: str) -> str:
    """In one line that any log can hold, whatever bytes a name is made of."""
    return text.translate(BREAKS).encode("utf-8", "backslashreplace").decode()
