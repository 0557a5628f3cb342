"""Speed of what feeds the device: pipelines, sources, the list of files. VITKILN_BENCH_IMAGES names real images."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitkiln.engine.data.fractal import Fractals
from vitkiln.engine.data.index import open_index
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.settings import Data
from vitkiln.kernels import augment_views

from .pipelines import PIPELINES, VIEWS, decode_and_cut, opened, rendered

FILES, FOLDERS = 200_000, 200


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pictures, or the real ones that were named."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    return rendered(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("name", PIPELINES)
def test_two_views_of_an_image(benchmark: Any, images: Path, name: str) -> None:
    """32 images in one process."""
    source = opened(images)
    work = PIPELINES[name](source)
    benchmark.extra_info["images"] = 32
    benchmark(work, 0, np.arange(32) % len(source))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_the_loader(benchmark: Any, images: Path, workers: int) -> None:
    """32 images, colours included, on the CPU."""
    loader = Loader(
        opened(images), VIEWS, batch_size=32, seed=0, workers=workers, device=torch.device("cpu"), max_bad=0.1
    )
    batches = iter(loader)
    next(batches)
    benchmark.pedantic(next, (batches,), rounds=10)
    loader.close()


def test_the_colours_of_two_views(benchmark: Any, images: Path) -> None:
    """The operator alone, 64 crops."""
    source = opened(images)
    crops: Any = decode_and_cut(source)(0, np.arange(32) % len(source))
    rows = [torch.from_numpy(rows) for rows in crops.parameters]
    benchmark(lambda: [augment_views(*pair) for pair in zip(crops.views, rows, strict=True)])


@pytest.mark.parametrize(("size", "points"), [(64, 4000), (96, 20_000)])
def test_a_fractal(benchmark: Any, size: int, points: int) -> None:
    """One picture."""
    source = Fractals(Data(source="fractal", fractal_size=size, fractal_points=points), 0)
    source.image(0)
    benchmark(source.image, 1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hard links to a few files: folders, names and inodes as a large set has them, and no space taken."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    root = tmp_path_factory.mktemp("many")
    for folder in range(FOLDERS):
        (root / f"n{folder:08d}").mkdir()
        first = root / f"n{folder:08d}" / "0.jpg"
        first.write_bytes(b"")
        for number in range(1, FILES // FOLDERS):
            os.link(first, first.with_name(f"n{folder:08d}_{number}.jpg"))
    past = (time.time() - 3600,) * 2
    for folder in [root, *root.iterdir()]:
        os.utime(folder, past)
    return root


def test_listing_200_000_files_for_the_first_time(benchmark: Any, many: Path) -> None:
    """Without a list in the cache."""
    cache = Path(os.environ["XDG_CACHE_HOME"])

    def forget() -> None:
        for file in (cache / "vitkiln").glob("*"):
            file.unlink()

    benchmark.pedantic(lambda: open_index(str(many)), setup=forget, rounds=3)


def test_listing_200_000_files_again(benchmark: Any, many: Path) -> None:
    """With one."""
    open_index(str(many))
    benchmark.pedantic(lambda: open_index(str(many)), rounds=5)
