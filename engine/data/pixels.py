"""The pixels of a Pillow image as a tensor, where they lie if Pillow tells where (Arrow's C data interface)."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CHANNELS = 4  # bytes of a pixel in Pillow's memory: red, green, blue and one unused


class Array(ctypes.Structure):
    """ArrowArray up to what is read of it (arrow.apache.org/docs/format/CDataInterface.html)."""


Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(Array))),
]
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Held(np.ndarray):
    """Pixels that keep alive whom they belong to."""

    owner: object = None


def pixels(image: Image.Image) -> Tensor:
    """uint8 [H, W, 3] of an RGB image, not to be written to; strided by four bytes where nothing was copied."""
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):  # before Pillow 11.2; a large image that lies in several blocks
        return torch.from_numpy(np.array(image))
    width, height = image.size
    found = ctypes.cast(pointer(capsule, b"arrow_array"), ctypes.POINTER(Array)).contents
    child = found.children[0].contents if found.n_children else None
    if (
        child is None
        or child.n_buffers != 2
        or child.length != CHANNELS * width * height
        or found.offset
        or child.offset
    ):
        return torch.from_numpy(np.array(image))
    memory = (ctypes.c_uint8 * child.length).from_address(child.buffers[1])
    held = np.frombuffer(memory, np.uint8).reshape(height, width, CHANNELS)[..., :3].view(Held)
    held.owner = image, capsule
    return torch.from_numpy(held)
