"""What could not be read is listed once, in lines that stay lines, and listing it never ends a run."""

import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitkiln.engine.data.bad_files import BadFiles

ODD = "a/\udcff.jpg", "b\tc.jpg", "d\ne\r.jpg", "f\u2028g\x0c.jpg", "h.jpg"


def listed(file: Path, *names: str) -> BadFiles:
    bad = BadFiles()
    bad.keep(file)
    for name in names:
        bad.add(name, "cut\nshort")
    return bad


def test_any_name_is_one_line_and_no_restart_lists_it_again(tmp_path: Path) -> None:
    for _ in range(2):
        listed(tmp_path / "bad_files.txt", *ODD)
    lines = (tmp_path / "bad_files.txt").read_bytes().split(b"\n")
    names = [b"a/\xff.jpg", rb"b\tc.jpg", rb"d\ne\r.jpg", "f\u2028g\x0c.jpg".encode(), b"h.jpg"]
    assert lines == [*(name + b"\t" + rb"cut\nshort" for name in names), b""]


def test_a_warning_is_one_line_that_any_log_can_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vitkiln"):
        listed(tmp_path / "bad_files.txt", *ODD)
    told = [record.getMessage().encode("utf-8").decode() for record in caplog.records]
    assert len(told) == len(ODD)
    assert not any("\n" in line or "\r" in line for line in told)
    assert told[0].startswith(r"a/\udcff.jpg: ")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond twenty bytes: around a few lines only, as pytest writes to a file too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_told_once_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = listed(tmp_path / "bad_files.txt")
    with caplog.at_level(logging.WARNING, "vitkiln"), full_disk():
        for name in ("1.jpg", "2.jpg", "3.jpg"):
            bad.add(name, "the file is empty")
    assert list(bad) == ["1.jpg", "2.jpg", "3.jpg"]
    assert [record.getMessage() for record in caplog.records if "no longer listed" in record.getMessage()] == [
        f"{tmp_path}/bad_files.txt: File too large; what cannot be read is no longer listed there"
    ]
