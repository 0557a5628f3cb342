"""JPEGs that any decoder reads as Pillow does, known by their markers, and their header made safe for others to parse.

DALI's threads crash where its parser meets an unsound header in the middle of a batch, so it is to meet none.
"""

from __future__ import annotations

import io
import re
import struct
from contextlib import suppress
from typing import Any, NamedTuple

from PIL import Image

from .decode import quiet

START, END = b"\xff\xd8", b"\xff\xd9"
SEGMENT = struct.Struct(">HH")  # marker; bytes that follow it, these two among them
FRAMES = frozenset((0xFFC0, 0xFFC1, 0xFFC2))  # Huffman-coded: baseline, extended, progressive
TABLES = frozenset((0xFFC4, 0xFFDB, 0xFFDD))
SCAN = 0xFFDA
NOTES = frozenset((*range(0xFFE0, 0xFFF0), 0xFFFE))  # of applications, which only say how to look at the pixels
MARKER = re.compile(rb"\xff[^\x00]")  # among coded pixels, where a byte of 255 is followed by 0
RESTARTS = frozenset(bytes((0xFF, number)) for number in range(0xD0, 0xD8))
NEXT_SCANS = RESTARTS | {b"\xff\xc4", b"\xff\xda"}
IDS = ([1], [1, 2, 3])  # of grey, and of luminance and two of colour; others stand for RGB, CMYK or whatever


class Plain(NamedTuple):
    """A JPEG of 8-bit grey or YCbCr in which nothing but pixels lies between the header and the end marker."""

    data: bytes  # without notes
    size: tuple[int, int]  # width and height


def plain(data: bytes) -> Plain | None:
    """The file if it is such a JPEG, None for anything else, which is left to Pillow.

    A cut or flipped byte that only some decoders mind mostly shows between the markers.
    """
    with suppress(Exception), quiet():  # what Pillow cannot open, Pillow tells the reason of
        image: Any = Image.open(io.BytesIO(data), formats=("JPEG",))
        if image.format == "JPEG" and known_colours(image):
            header, start = lean_header(data)
            markers = MARKER.findall(data, start, len(data) - len(END))
            expected = NEXT_SCANS if "progressive" in image.info else RESTARTS
            if data.endswith(END) and expected.issuperset(markers):
                return Plain(header + data[start:], image.size)
    return None


def known_colours(image: Any) -> bool:
    """Whether components are those that every decoder takes for grey or YCbCr, those of colour in one size."""
    ids, across, down, _ = zip(*image.layer, strict=True)
    ours = list(ids) in IDS and (len(ids) == 1 or image.info.get("adobe_transform", 1) == 1)
    return ours and {across[0], down[0]} <= {1, 2, 4} and {*across[1:], *down[1:]} <= {1}


def lean_header(data: bytes) -> tuple[bytes, int]:
    """What a decoder needs of the header, and where the pixels start; ValueError where it is not sound."""
    parts, at, frames = [START], len(START), 0
    marker = 0
    while marker != SCAN:
        marker, length = SEGMENT.unpack_from(data, at)
        if length < 2 or not (marker in NOTES or marker in FRAMES or marker in TABLES or marker == SCAN):
            raise ValueError(f"marker {marker:x}")
        end = at + 2 + length
        if marker not in NOTES:
            parts.append(data[at:end])
        frames += marker in FRAMES
        at = end
    if frames != 1 or not data.startswith(START) or at > len(data):
        raise ValueError("not one frame")
    return b"".join(parts), at
