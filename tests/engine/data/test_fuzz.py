"""A thousand JPEGs with flipped bits, cut short or under a wrong name, in a folder and in shards, by every loader."""

import io
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkiln.engine.data.bad_files import BadFiles
from vitkiln.engine.data.decode import content, picture
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.source import BadImage, open_source
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View

COUNT = 1000
BATCH = 100
VIEWS = (View(size=32, blur=1.0), View(size=24, interpolation="bicubic"))
LOADERS = ["pillow", *(["dali"] if find_spec("nvidia") and find_spec("nvidia.dali") else [])]


def jpeg(random: np.random.Generator) -> bytes:
    """A small photograph of sorts: baseline or progressive, any subsampling, colour or grey."""
    width, height = random.integers(40, 160, 2)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((int(width), int(height)))
    file = io.BytesIO()
    image = coarse.convert("L") if random.random() < 0.1 else coarse
    settings = {"quality": int(random.integers(30, 96)), "progressive": bool(random.random() < 0.3)}
    image.save(file, "JPEG", subsampling=int(random.integers(0, 3)), **settings)
    return file.getvalue()


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """A few bits, anywhere in the file."""
    spoilt = bytearray(data)
    for place in random.integers(0, len(data), random.integers(1, 9)):
        spoilt[place] ^= 1 << int(random.integers(0, 8))
    return bytes(spoilt)


def fuzzed(number: int) -> tuple[str, bytes]:
    """A name and what lies under it; every fifth file is whole."""
    random = np.random.default_rng(number)
    data = jpeg(random)
    kind = number % 5
    if kind in (1, 2):
        data = flipped(data, random)
    if kind == 3:
        data = data[: int(random.integers(0, len(data)))]
    suffix = ("png", "bmp", "webp")[number % 3] if kind == 4 else "jpg"
    return f"{number:04d}.{suffix}", data


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return dict(fuzzed(number) for number in range(COUNT))


@pytest.fixture(scope="module")
def unreadable(files: dict[str, bytes]) -> set[str]:
    """Those that Pillow, the meaning of a loader, cannot decode."""

    def refused(name: str, data: bytes) -> bool:
        try:
            picture(data, name)
        except BadImage:
            return True
        return False

    return {name for name, data in files.items() if refused(name, data)}


def folder(root: Path, files: dict[str, bytes]) -> Data:
    for number, (name, data) in enumerate(files.items()):
        (root / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (root / str(number % 3) / name).write_bytes(data)
    return Data(root=str(root))


def shards(root: Path, files: dict[str, bytes]) -> Data:
    root.mkdir(parents=True)
    for shard in range(3):
        with tarfile.open(root / f"shard-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, (name, data) in enumerate(files.items()):
                if number % 3 == shard:
                    for member, inside in ((name, data), (name.rpartition(".")[0] + ".cls", str(shard).encode())):
                        entry = tarfile.TarInfo(member)
                        entry.size = len(inside)
                        archive.addfile(entry, io.BytesIO(inside))
    return Data(source="shards", root=str(root))


def short(name: str) -> str:
    """The file of a path, or of a member of a shard."""
    return name.rpartition("/")[2].rpartition(":")[2]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", [folder, shards])
def test_every_bad_file_is_named_and_nothing_else_happens(
    tmp_path: Path,
    files: dict[str, bytes],
    unreadable: set[str],
    kind: Callable[[Path, dict[str, bytes]], Data],
    loader: str,
    workers: int,
) -> None:
    source = open_source(kind(tmp_path / "images", files), 0)
    assert source is not None
    assert len(source) == COUNT
    told, bad = tmp_path / "bad_files.txt", BadFiles()
    bad.keep(told)
    reading = Loader(
        source, VIEWS, batch_size=BATCH, seed=0, workers=workers, device=torch.device("cpu"), max_bad=1.0,
        loader=loader, bad=bad,
    )  # fmt: skip
    seen = torch.cat([batch.ids for batch in islice(reading, COUNT // BATCH)])
    reading.close()
    assert sorted(seen.tolist()) == list(range(COUNT))
    assert {short(name) for name in reading.bad} == unreadable
    assert {short(line.partition("\t")[0]) for line in told.read_text().splitlines()} == unreadable


def test_the_fuzz_spoils_some_files_and_leaves_others(unreadable: set[str]) -> None:
    assert COUNT // 10 < len(unreadable) < COUNT // 2


def test_a_file_that_is_named_once_is_not_named_again_after_a_restart(tmp_path: Path, files: dict[str, bytes]) -> None:
    few = dict(list(files.items())[:50])
    source, told = open_source(folder(tmp_path / "images", few), 0), tmp_path / "bad_files.txt"
    assert source is not None
    for step in (0, 1):
        settings = {"batch_size": 25, "workers": 0, "device": torch.device("cpu"), "max_bad": 1.0}
        bad = BadFiles()
        bad.keep(told)
        reading = Loader(source, VIEWS, seed=0, step=step, bad=bad, **settings)  # type: ignore[arg-type]
        list(islice(reading, 2))
    lines = told.read_text().splitlines()
    assert lines
    assert len(lines) == len({line.partition("\t")[0] for line in lines})
    assert all(content(line.partition("\t")[0]) is not None and line.partition("\t")[2] for line in lines)
