"""Folders of small rendered pictures, and a cache of file lists that belongs to one test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitkiln"


def picture(number: int, width: int = 48, height: int = 36) -> Image.Image:
    """Smooth ramps of a colour of its own: JPEG changes them little."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * 3 + number * 37) % 256, (y * 4 + number * 91) % 256, np.full_like(x, number * 53 % 256)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes classes/NNN.jpg with `each` pictures in each class; a class "" is the root itself."""

    def write(classes: tuple[str, ...] = ("a", "b"), each: int = 10, root: str = "images") -> Path:
        folder = tmp_path / root
        for label, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                picture(label * each + number).save(folder / name / f"{number:03d}.jpg", quality=95)
        return folder

    return write
