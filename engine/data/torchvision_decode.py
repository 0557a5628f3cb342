"""torchvision's decoder of JPEGs, where torchvision fits this PyTorch, in the place of Pillow's.

Its wheels are built for CUDA and do not import beside a PyTorch without; an import that fails halfway breaks others
that come after it. So its libraries are opened first, and it is imported only where they can be.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .decode import picture
from .jpeg import plain


def by_torchvision(data: bytes, name: str) -> Image.Image:
    """As `decode.picture`, which still decodes whatever is no plain JPEG, or fails here. BadImage."""
    if plain(data) is None:
        return picture(data, name)
    io = torchvision_io()
    try:
        pixels = io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=io.ImageReadMode.RGB)
    except RuntimeError:
        return picture(data, name)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


@cache
def torchvision_io() -> Any:
    """Its functions that read and write."""
    return import_module("torchvision.io")


@cache
def trouble() -> str | None:
    """Why torchvision cannot be used here, None where it can."""
    spec = find_spec("torchvision")
    if spec is None:
        return "torchvision is not installed"
    try:
        for place in spec.submodule_search_locations or ():
            for library in sorted(Path(place).glob("*.so")):
                ctypes.CDLL(str(library))
        torchvision_io()
    except (ImportError, OSError, RuntimeError) as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # halves of it
        return f"torchvision does not fit this PyTorch ({error})"
    return None
