"""JPEGs of any size and kind, and what may become of them on a disk or a wire."""

import io
from pathlib import Path

import numpy as np

from vitkiln.engine.data.source import Files, open_source
from vitkiln.engine.settings import Data

from .conftest import picture

FILES = 200


def whole(numbers: np.random.Generator, number: int) -> bytearray:
    encoded = io.BytesIO()
    size = numbers.integers(8, 90, 2).tolist()
    settings = {"quality": int(numbers.integers(40, 98)), "progressive": bool(numbers.integers(3) == 0)}
    picture(number, *size).save(encoded, "jpeg", **settings)
    return bytearray(encoded.getvalue())


def damaged(numbers: np.random.Generator, data: bytearray) -> bytes:
    """Flipped bits anywhere, in the header or among the pixels; a piece lost; the end lost; a piece of noise."""
    header, last = data.find(b"\xff\xda"), len(data) - 2
    kind = numbers.integers(6)
    first, end = sorted(numbers.integers(2, last, 2).tolist())
    if kind < 3:
        low, high = ((2, last), (2, header), (header + 12, last))[kind]
        for place in numbers.integers(low, max(high, low + 1), numbers.integers(1, 6)).tolist():
            data[place] ^= 1 << int(numbers.integers(8))
    elif kind == 3:
        del data[first:end]
    elif kind == 4:
        del data[end:]
    else:
        data[first : first + 20] = numbers.bytes(20)
    return bytes(data)


def written(folder: Path, seed: int) -> Files:
    """FILES of them, three in four damaged, as a source."""
    numbers = np.random.default_rng(seed)
    for number in range(FILES):
        data = whole(numbers, number)
        (folder / f"{number:03d}.jpg").write_bytes(damaged(numbers, data) if number % 4 else data)
    found = open_source(Data(root=str(folder)), 0)
    assert isinstance(found, Files)
    return found
