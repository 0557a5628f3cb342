"""Only sound and plain JPEGs are handed to other decoders than Pillow, without what their parsers might stumble on."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitkiln.engine.data.jpeg import plain

from .conftest import picture


def encoded(mode: str = "RGB", **settings: Any) -> bytes:
    file = io.BytesIO()
    picture(3).convert(mode).save(file, "jpeg", **settings)
    return file.getvalue()


def exif() -> Image.Exif:
    notes = Image.Exif()
    notes[0x0112] = 6
    return notes


WHOLE = encoded()
SOUND = {
    "colour": WHOLE,
    "grey": encoded("L"),
    "progressive": encoded(progressive=True),
    "restarts": encoded(restart_marker_rows=1),
    "full chroma": encoded(subsampling=0),
    "notes": encoded(exif=exif(), comment=b"\xff\xd9 in a comment", icc_profile=b"profile"),
}
HEADER, TABLES, REST = WHOLE.partition(b"\xff\xdb")
OTHERS = {
    "nothing": b"",
    "CMYK": encoded("CMYK"),
    "red, green and blue as they are": encoded(keep_rgb=True),
    "the end cut off": WHOLE[:-2],
    "something after the end": WHOLE + b"\0",
    "an end in the middle": WHOLE[:-9] + b"\xff\xd9" + WHOLE[-9:],
    "bytes between segments": HEADER + b"\x01\x02" + TABLES + REST,
    "a marker nobody knows": HEADER + b"\xff\xc8\x00\x02" + TABLES + REST,
    "a segment shorter than its length": HEADER + b"\xff\xe1\x00\x00" + TABLES + REST,
    "a segment longer than the file": HEADER + b"\xff\xfe\xff\xff" + TABLES + REST,
    "two frames": WHOLE[: WHOLE.find(b"\xff\xda")] + WHOLE[WHOLE.find(b"\xff\xc0") :],
    "a picture of another kind": b"\x89PNG\r\n\x1a\n" + bytes(30),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_plain_jpeg_keeps_its_pixels_and_loses_its_notes(name: str) -> None:
    found = plain(SOUND[name])
    assert found is not None
    whole, lean = (Image.open(io.BytesIO(data)) for data in (SOUND[name], found.data))
    assert found.size == whole.size
    np.testing.assert_array_equal(np.asarray(whole.convert("RGB")), np.asarray(lean.convert("RGB")))
    assert not {"exif", "comment", "icc_profile"} & set(lean.info)


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_left_to_pillow(name: str) -> None:
    assert plain(OTHERS[name]) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255), st.integers(0, 40))
def test_whatever_is_taken_has_segments_one_after_another(place: int, flip: int, lost: int) -> None:
    data = bytearray(SOUND["progressive"])
    data[place % len(data)] ^= flip
    del data[place : place + lost]
    found = plain(bytes(data))
    if found is not None:
        at = 2
        while found.data[at + 1] != 0xDA:
            assert found.data[at] == 0xFF
            assert found.data[at + 1] in (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD)
            at += 2 + int.from_bytes(found.data[at + 2 : at + 4], "big")
        assert found.data.endswith(b"\xff\xd9")
