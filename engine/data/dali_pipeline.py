"""DALI's side of its hand, and the only file that imports it: encoded images and numbers go in, views come out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..vocabulary import View
from .prepare import Prepared

Pipeline = Any  # DALI's
Node = Any  # of its graph
Inputs = list[Any]  # encoded images, then two arrays [B, 2] for each view
DEPTH = 2  # batches in work


def dali() -> Any:
    """The package, whose import takes seconds."""
    os.environ.setdefault("DALI_NVIMGCODEC_LOG_LEVEL", "1")  # errors are told all the same, here and by the loader
    return import_module("nvidia.dali")


class Machine(NamedTuple):
    """With what DALI works: a GPU and threads of its own, or the threads alone."""

    device: torch.device
    threads: int
    hardware: float  # share of a batch for the GPU's JPEG engine
    largest: int  # images of a batch

    def pipeline(self, views: tuple[View, ...], batches: Iterator[Inputs]) -> Pipeline:
        """Asks for a batch each time it is run, at first for DEPTH of them, and ends where they end."""
        fn, types = dali().fn, dali().types
        kinds = [types.UINT8]
        for view in views:
            kinds += [types.FLOAT, types.INT32 if view.padding else types.FLOAT]
        with self.empty(self.largest) as pipeline:
            encoded, *numbers = fn.external_source(batches, len(kinds), dtype=kinds, ndim=1)
            images = self.decoded(encoded)
            pairs = zip(views, numbers[::2], numbers[1::2], strict=True)
            pipeline.set_outputs(*(cut(images, *pair) for pair in pairs))
        pipeline.build()
        return pipeline

    def empty(self, largest: int) -> Pipeline:
        """For batches of at most so many images."""
        gpu = None
        if self.device.type == "cuda":
            gpu = torch.cuda.current_device() if self.device.index is None else self.device.index
        return dali().Pipeline(largest, self.threads, gpu, seed=0, prefetch_queue_depth=DEPTH)

    def decoded(self, encoded: Node) -> Node:
        """Images [H, W, 3] as Pillow decodes them, to the bit on a CPU."""
        settings = {"output_type": dali().types.RGB, "adjust_orientation": False}
        if self.device.type != "cuda":
            return dali().fn.decoders.image(encoded, device="cpu", **settings)
        settings |= {"hw_decoder_load": self.hardware, "affine": False}  # ranks share the cores
        return dali().fn.decoders.image(encoded, device="mixed", jpeg_fancy_upsampling=True, **settings)  # as libjpeg

    def run(self, pipeline: Pipeline) -> list[Tensor]:
        """The views of the batch that was asked for first: uint8 [B, size, size, 3], on a GPU in the current stream.

        StopIteration at the end; RuntimeError where a batch in work fails, after which the pipeline can do no more.
        """
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        return [torch.from_dlpack(view.as_tensor()) for view in pipeline.run(stream)]

    def decode(self, data: NDArray[np.uint8]) -> None:
        """An image by itself; RuntimeError where that cannot be done."""
        with self.empty(1) as pipeline:
            encoded = dali().fn.external_source(iter([[data]]), dtype=dali().types.UINT8, ndim=1)
            pipeline.set_outputs(self.decoded(encoded))
        pipeline.run()

    def decodes(self, data: NDArray[np.uint8]) -> bool:
        """Whether an image can be decoded."""
        try:
            self.decode(data)
        except RuntimeError:
            return False
        return True

    def trouble(self) -> str | None:
        """Why DALI does not work here, None where it does: a picture of one pixel is decoded."""
        pixel = io.BytesIO()
        Image.new("RGB", (1, 1)).save(pixel, "jpeg")
        try:
            self.decode(np.frombuffer(pixel.getvalue(), np.uint8))
        except (ImportError, OSError, RuntimeError) as error:
            return reason(error)
        return None


def reason(error: Exception) -> str:
    """What went wrong, in a line, without the call stacks that DALI adds."""
    text = str(error).rpartition("encountered:")[2].partition("Current pipeline")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def cut(images: Node, view: View, first: Node, second: Node) -> Node:
    """One view of images [H, W, 3]."""
    fn, types = dali().fn, dali().types
    filters = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
    settings = {"interp_type": filters[view.interpolation], "antialias": True}
    square = (view.size, view.size)
    if not view.padding:
        return fn.resize(images, size=square, roi_start=first, roi_end=second, **settings)
    whole = fn.resize(images, size=first, **settings)
    return fn.slice(whole, start=second, shape=square, axes=(0, 1), out_of_bounds_policy="pad", fill_values=0)


def inputs(prepared: Prepared, views: tuple[View, ...]) -> Inputs:
    """What the pipeline of these views takes."""
    found: Inputs = [prepared.encoded()]
    for view, places in zip(views, prepared.places, strict=True):
        kinds = np.float32, np.int32 if view.padding else np.float32
        found += map(np.ascontiguousarray, (places[:, :2], places[:, 2:]), kinds)
    return found
