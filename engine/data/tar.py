"""Where the files of a tar archive lie, found from its headers alone: a million of them within seconds."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
WINDOW = 4096  # bytes of one read: a small file and the header after it come along
LONGEST = 64 << 20  # bytes of a name or of other text about a file
ZEROS = bytes(BLOCK)
FILE = (b"0", b"\0", b"7")
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, PAX_SUN = b"L", b"K", b"x", b"g", b"X"
OTHERS = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}


class Member(NamedTuple):
    """A file in an archive: `size` bytes from `offset` on."""

    name: bytes
    offset: int
    size: int


class Broken(Exception):
    """What ends an archive before its end."""


class Bytes:
    """Parts of a file by their place, read a window at a time."""

    def __init__(self, file: int, length: int):
        self.file, self.length = file, length
        self.start, self.data = 0, b""

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes, or as many as there are."""
        if start > self.length:  # maybe so far that the system cannot count it
            return b""
        place = start - self.start
        if place < 0 or place + count > len(self.data):
            self.start, self.data, place = start, os.pread(self.file, max(count, WINDOW), start), 0
        return self.data[place : place + count]

    def text(self, start: int, count: int) -> bytes:
        """`count` bytes, all of them; Broken."""
        if count > LONGEST:
            raise Broken(f"byte {start}: {count} bytes about one file, more than can be meant")
        found = self.read(start, count)
        if len(found) < count:
            raise cut(count - len(found))
        return found


def cut(missing: int) -> Broken:
    """The end of an archive that has none."""
    return Broken(f"cut short: at least {missing} bytes are missing")


def members(archive: Bytes) -> Iterator[Member]:
    """The files of a USTAR, GNU or PAX archive in their order, each with all its bytes; Broken at what is none."""
    place, name, told = 0, b"", dict[bytes, bytes]()  # name and told: what the last headers say of the next file
    while True:
        header = archive.read(place, BLOCK)
        if header == ZEROS:
            return
        check(header, place)
        kind, size, start = header[156:157], number(header[124:136], place), place + BLOCK
        if kind == LONG_NAME:
            name = archive.text(start, size).partition(b"\0")[0]
        elif kind in (PAX, PAX_SUN):
            told = records(archive.text(start, size), start)
        elif kind not in (LONG_LINK, PAX_GLOBAL):
            size = number(told[b"size"], place, 10) if b"size" in told else size
            if start + size > archive.length:
                raise cut(start + size - archive.length)
            if kind in FILE and not any(key.startswith(b"GNU.sparse") for key in told):
                yield Member(told.get(b"path") or name or short_name(header), start, size)
            name, told = b"", {}
        place = start + (size + BLOCK - 1) // BLOCK * BLOCK


def check(header: bytes, place: int) -> None:
    """Broken where these bytes are no header: it says what the sum of its other bytes is."""
    if len(header) < BLOCK:
        raise cut(BLOCK - len(header)) if place or header else Broken("the file is empty")
    try:
        said = int(header[148:156].strip(b"\0 "), 8)
    except ValueError:
        said = -1
    # adler32 holds 1 + the sum of the bytes, modulo 65521, in its lower half: ten times as fast as sum()
    if zlib.adler32(header[:148] + b"        " + header[156:]) & 0xFFFF != (1 + said) % 65521:
        kind = OTHERS.get(header[:2])
        packed = f": compressed by {kind}; unpack it" if kind else ""
        raise Broken(f"byte {place}: what is there is no part of a tar file" if place else f"not a tar file{packed}")


def number(field: bytes, place: int, base: int = 8) -> int:
    """Octal digits, or where the first bit is set binary ones."""
    try:
        value = int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else int(field.strip(b"\0 ") or b"0", base)
    except ValueError:
        value = -1
    if value < 0:
        raise Broken(f"byte {place}: a file of {field!r} bytes")
    return value


def short_name(header: bytes) -> bytes:
    """The name in a header itself; USTAR has 155 bytes more for the folder."""
    name = header[:100].partition(b"\0")[0]
    folder = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return folder + b"/" + name if folder else name


def records(text: bytes, start: int) -> dict[bytes, bytes]:
    """PAX: lines `length key=value`, where the length counts all of the line."""
    found, place = dict[bytes, bytes](), 0
    while place < len(text) and text[place]:
        digits = text[place : place + 20].partition(b" ")[0]
        end = place + int(digits) if digits.isdigit() else 0
        key, equals, value = text[place + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or not place < end <= len(text):
            raise Broken(f"byte {start + place}: what is there is no part of a tar file")
        found[key] = value
        place = end
    return found
