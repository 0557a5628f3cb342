"""How fast JPEGs become pixels: by Pillow on the cores that are there, by torchvision and by DALI on the GPU."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .work import Place, Provider, Work, plain

SIZES = ((500, 375), (341, 256))  # width and height: as photographs of ImageNet mostly are, and cut down before
QUALITY = 90
HARDWARE = (0.65, 0.0, 0.9, 1.0)  # shares of a batch that DALI gives to the GPU's decoder, its own choice first
EVERY = 16  # pixels that are compared


def works(place: Place) -> Iterator[Work]:
    """A batch of pictures, drawn for the occasion into a folder that goes with the work."""
    for size in SIZES[: place.size(2, 1)]:
        yield work(place, place.size(256, 3), size)


def work(place: Place, count: int, size: tuple[int, int]) -> Work:
    """Decoders round differently, by a level here and there: hence the tolerance."""
    folder, cores = TemporaryDirectory(prefix="jpegs-"), len(os.sched_getaffinity(0))
    files = [draw(Path(folder.name) / f"{number}.jpg", number, size) for number in range(count)]
    pool = ThreadPoolExecutor(cores)

    def inputs() -> tuple[Any, ...]:
        return [file.read_bytes() for file in files], folder  # the folder lives as long as somebody holds it

    providers: dict[str, Provider] = {
        "pillow, a thread": plain(lambda data, _: sampled(map(by_pillow, data))),
        f"pillow, {cores} threads": plain(lambda data, _: sampled(pool.map(by_pillow, data))),
        **(on_gpu(files, cores) if place.device.type == "cuda" else {}),
    }
    each = sum(file.stat().st_size for file in files) // count
    shape = {"B": count, "width": size[0], "height": size[1], "bytes": each}
    settings = {"tolerance": 5e-2, "enqueued": False, "fewest": 5, "images": count}
    return Work("decode", "forward", shape, inputs, providers, **settings)


def draw(file: Path, number: int, size: tuple[int, int]) -> Path:
    """Broad patches of colour under fine grain: about as many bytes as a photograph."""
    random = np.random.default_rng(number)
    patches = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    grain = random.normal(0, 6, (size[1], size[0], 1))
    picture = np.asarray(patches.resize(size, Image.Resampling.BICUBIC)) + grain
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, quality=QUALITY)
    return file


def by_pillow(data: bytes) -> Tensor:
    """uint8 [H, W, 3]"""
    with Image.open(io.BytesIO(data)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB")))


def sampled(pictures: Iterable[Tensor]) -> Tensor:
    """A grid of pixels of each [H, W, 3], to compare decoders by."""
    return torch.stack([picture[::EVERY, ::EVERY].float() for picture in pictures]).cpu()


def on_gpu(files: list[Path], cores: int) -> dict[str, Provider]:
    """Those whose packages are there; one that does not import says so in its line."""
    providers: dict[str, Provider] = {}
    if find_spec("torchvision"):
        providers["torchvision, GPU"] = by_torchvision
    if find_spec("nvidia") and find_spec("nvidia.dali"):
        providers |= {f"DALI, hardware {load:g}": partial(by_dali, files, cores, load) for load in HARDWARE}
    return providers


def by_torchvision() -> Callable[..., Tensor]:
    """nvJPEG, a batch a call."""
    from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-not-found,import-untyped,unused-ignore]

    def decode(data: list[bytes], _: Any) -> Tensor:
        encoded = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in data]
        pictures = decode_jpeg(encoded, mode=ImageReadMode.RGB, device="cuda")
        return sampled(picture.permute(1, 2, 0) for picture in pictures)

    return decode


def by_dali(files: list[Path], cores: int, load: float) -> Callable[..., Tensor]:
    """Reads the files itself, in the background, and decodes on the CPU what it does not give to the GPU."""
    from nvidia.dali import fn, pipeline_def, types  # type: ignore[import-not-found,import-untyped,unused-ignore]

    @pipeline_def(batch_size=len(files), num_threads=cores, device_id=0)  # type: ignore[untyped-decorator,unused-ignore]
    def decoding() -> Any:
        encoded, _ = fn.readers.file(files=[str(file) for file in files])
        return fn.decoders.image(encoded, device="mixed", output_type=types.RGB, hw_decoder_load=load)

    pipeline = decoding()
    pipeline.build()

    def decode(*_: Any) -> Tensor:
        (pictures,) = pipeline.run()
        pictures = pictures.as_cpu()
        return sampled(torch.from_numpy(pictures.at(index)) for index in range(len(files)))

    return decode
