"""Ways to make the views of MoCo v3: colours on the device, by each of the loader's hands, or all of it by Pillow."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitkiln.engine.data import dali, torchvision_decode
from vitkiln.engine.data.crops import Cutter, Task
from vitkiln.engine.data.draw import colours, crop_box, uniforms
from vitkiln.engine.data.hands import hand
from vitkiln.engine.data.randaugment import FILTERS
from vitkiln.engine.data.source import Source, open_source
from vitkiln.engine.data.workers import AT_ONCE
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View
from vitkiln.kernels import augment_views
from vitkiln.kernels.augment_views import columns

VIEWS = (View(blur=1.0), View(blur=0.1, solarize=0.2))
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
Ids = NDArray[np.int64]
CPU = torch.device("cpu")


def opened(folder: Path) -> Source:
    """The training images of a folder."""
    source = open_source(Data(root=str(folder)), 0)
    assert source is not None
    return source


def rendered(folder: Path, count: int = 100) -> Path:
    """Pictures with the size and detail of ImageNet's, where no folder of real ones is given."""
    real = os.environ.get("VITKILN_BENCH_IMAGES")
    if real:
        return Path(real)
    numbers = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        grain = numbers.normal(0, 8, (375, 500, 1))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number}.jpg", quality=95
        )
    return folder


def decode_and_cut(source: Source) -> Callable[[int, Ids], object]:
    """The loader's worker: two crops and what is to happen to their colours."""
    cutter = Cutter(source, VIEWS, seed=0)
    return lambda epoch, ids: cutter(Task(epoch, ids))


def all_in_cpp(source: Source) -> Callable[[int, Ids], object]:
    """The same and the colours, by the operators' C++, in this process."""
    cutter = Cutter(source, VIEWS, seed=0)

    def work(epoch: int, ids: Ids) -> list[torch.Tensor]:
        views: list[torch.Tensor] = []
        for start in range(0, len(ids), AT_ONCE):
            crops = cutter(Task(epoch, ids[start : start + AT_ONCE]))
            rows = map(torch.from_numpy, crops.parameters)
            views += [augment_views(*pair) for pair in zip(crops.views, rows, strict=True)]
        return views

    return work


def all_by_pillow(source: Source) -> Callable[[int, Ids], object]:
    """The same crops and the same colours, made one by one in the worker."""

    def work(epoch: int, ids: Ids) -> list[NDArray[np.uint8]]:
        views = []
        for sample in ids.tolist():
            image = source.image(sample)
            for number, view in enumerate(VIEWS):
                drawn = uniforms(0, epoch, number, sample)
                side, box = (view.size, view.size), crop_box(drawn, *image.size, view)
                crop = image.resize(side, FILTERS[view.interpolation], box=box)
                views.append(np.asarray(coloured(crop, colours(drawn, view))))
        return views

    return work


def coloured(image: Image.Image, row: NDArray[np.float32]) -> Image.Image:
    """What `augment_views` does to a row, by Pillow."""
    for operation in row[columns.ORDER].astype(int) if row[columns.JITTER] else ():
        if operation < 3:
            image = ENHANCERS[operation](image).enhance(float(row[columns.FACTORS][operation]))
        else:
            h, s, v = image.convert("HSV").split()
            shift = int(row[columns.HUE] * 255) % 256
            image = Image.merge("HSV", (h.point([(i + shift) % 256 for i in range(256)]), s, v)).convert("RGB")
    if row[columns.GRAY]:
        image = image.convert("L").convert("RGB")
    if row[columns.SIGMA]:
        image = image.filter(ImageFilter.GaussianBlur(float(row[columns.SIGMA])))
    if row[columns.THRESHOLD] < 256:
        image = ImageOps.solarize(image, int(row[columns.THRESHOLD]))
    return ImageOps.mirror(image) if row[columns.FLIP] else image


def carried(name: str) -> Callable[[Source], Callable[[int, Ids], object]]:
    """Decoded and cut by a hand of the loader, in this process and its threads."""

    def make(source: Source) -> Callable[[int, Ids], object]:
        chosen = hand(name, source, VIEWS, 0)

        def work(epoch: int, ids: Ids) -> None:
            tasks = [Task(epoch, ids[start : start + chosen.at_once]) for start in range(0, len(ids), chosen.at_once)]
            stream = chosen.carry(iter(tasks), 0, CPU)
            for _ in tasks:
                next(stream)
            stream.close()

        return work

    return make


PIPELINES = {"decode and cut": decode_and_cut, "all, in C++": all_in_cpp, "all by Pillow": all_by_pillow}
if dali.trouble(CPU) is None:
    PIPELINES["DALI on the CPU: decode and cut"] = carried("dali")
if torchvision_decode.trouble() is None:
    PIPELINES["torchvision: decode and cut"] = carried("torchvision")
