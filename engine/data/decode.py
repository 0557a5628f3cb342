"""From a file to an RGB image: whatever Pillow can read is used, whatever it cannot is told in one line."""

import io
import os
import stat
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from .source import BadImage


def picture(data: bytes, name: str) -> Image.Image:
    """The picture as 8-bit RGB: transparency is dropped and deeper grey values are scaled, not cut off. BadImage."""
    try:
        return rgb(opened(data))
    except Exception as error:  # decoders of broken files raise anything: SyntaxError, struct.error, zlib.error...
        raise BadImage(name, reason(error)) from None


def opened(data: bytes) -> Image.Image:
    """The picture in its own mode, decoded to the end; whatever is wrong with it is raised."""
    if not data:
        raise ValueError("the file is empty")
    with quiet():
        image = Image.open(io.BytesIO(data))
        if image.format == "EPS":
            raise ValueError("PostScript, a program that would have to be run")
        image.load()
    return image


def content(path: str) -> bytes:
    """A whole file; BadImage."""
    try:
        with open(path, "rb", opener=unhindered) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadImage(path, "not a file")
            return file.read()
    except (OSError, MemoryError) as error:
        raise BadImage(path, reason(error)) from None


def unhindered(path: str, flags: int) -> int:
    """Open without waiting for whoever writes into a pipe of that name."""
    return os.open(path, flags | os.O_NONBLOCK)


class quiet(warnings.catch_warnings):  # noqa: N801  a context manager
    """Without warnings: one for each large or odd picture would bury the log."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


def rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, itself where it is."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # I;16 and its orders of bytes, and I, in which older Pillow gives 16-bit PNG
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((deep + 128) // 257).clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def reason(error: Exception) -> str:
    """What is wrong with a picture, without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}" or type(error).__name__
