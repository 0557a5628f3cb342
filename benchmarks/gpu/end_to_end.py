"""Whole training steps of the recipes, from random batches and from JPEGs: what a run reaches, and what it waits for.

VITKILN_BENCH_IMAGES names a folder of photographs, a folder for each class; without it pictures are drawn.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from vitkiln.engine.bench import synthetic
from vitkiln.engine.bench.ceiling import peak_tflops
from vitkiln.engine.data.feed import Feed
from vitkiln.engine.flops import model_flops
from vitkiln.engine.recipe import Recipe, load
from vitkiln.engine.train import Trainer, train_step

from .decode import draw
from .work import Place, Work

BATCHES = {  # images a step: of ViT-S, of ViT-B
    "dilemma": (1024, 512),
    "mocov3": (512, 256),
    "dino": (128, 64),
    "mae": (1024, 512),
    "gmml": (256, 128),
    "relvit": (512, 256),
    "fractal": (512, 256),
}
SIZES = ("vit_small", "vit_base")
PICTURES, SIZE, CLASSES = 1024, (500, 375), 8  # drawn where no folder is named
WARM = 10  # steps after which waiting counts
TINY = ["encoder.width=32", "encoder.depth=2", "encoder.heads=2", "encoder.image_size=32", "encoder.patch_size=8"]
TINY += ["run.precision=fp32", "run.device=cpu", "data.workers=0", "optim.warmup_epochs=0"]
TINY_METHODS = {
    "dilemma": ["method.hidden=32", "method.output=16"],
    "mocov3": ["method.hidden=32", "method.output=16"],
    "dino": ["method.hidden=32", "method.output=64", "method.bottleneck=16", "method.local_size=16"],
    "mae": ["method.decoder_width=32", "method.decoder_depth=1", "method.decoder_heads=2"],
    "fractal": ["data.categories=4", "data.instances=4", "data.fractal_size=32", "data.fractal_points=300"],
}


def works(place: Place) -> Iterator[Work]:
    """Every method at both sizes; nothing is drawn or built before its turn comes."""
    for method, batches in BATCHES.items():
        for size, batch in zip(SIZES[: place.size(2, 1)], batches, strict=False):
            yield work(place, method, size, place.size(batch, 4))


def work(place: Place, method: str, size: str, batch: int) -> Work:
    """Both begin with the same weights, and see other pictures."""
    recipe = partial(recipe_of, place, method, size, batch)
    pictures = "drawn by workers" if method == "fractal" else "JPEG files"
    return Work(
        f"{method} end to end",
        "train",
        {"B": batch, "D": place.size({"vit_small": 384, "vit_base": 768}[size], 32)},
        tuple,
        {"synthetic": lambda: Synthetic(recipe(), place), pictures: lambda: Fed(recipe(), place)},
        incomparable=(pictures,),
        enqueued=False,
        fewest=10,
        images=batch,
    )


def recipe_of(place: Place, method: str, size: str, batch: int) -> Recipe:
    """The shipped one, in one part, on as many workers as there are cores, whoever decodes best."""
    changes = [f"encoder.name={size}", f"data.batch_size={batch}", "run.accumulate=1", "data.loader=auto"]
    changes += [f"data.workers={len(os.sched_getaffinity(0))}"]
    changes += [] if method == "fractal" else [f"data.root={images(place)}"]
    changes += [*TINY, *TINY_METHODS.get(method, [])] if place.tiny else ["run.device=cuda"]
    return load(method, changes, short=False)


@cache
def images(place: Place) -> Path:
    """The folder that is named, or one of pictures drawn for the occasion, which goes with the process."""
    named = os.environ.get("VITKILN_BENCH_IMAGES")
    if named and not place.tiny:
        return Path(named)
    folder = TemporaryDirectory(prefix="end-to-end-")
    weakref.finalize(images, folder.cleanup)
    size = (64, 48) if place.tiny else SIZE
    files = [Path(folder.name) / str(n % CLASSES) / f"{n}.jpg" for n in range(place.size(PICTURES, 2 * CLASSES))]
    for file in files[:CLASSES]:
        file.parent.mkdir()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda pair: draw(pair[1], pair[0], size), enumerate(files)))
    return Path(folder.name)


class Synthetic:
    """Calling it trains one step on random pixels and returns the loss."""

    def __init__(self, recipe: Recipe, place: Place):
        self.trainer = Trainer(recipe, place.device)
        self.batches = synthetic.steps(self.trainer)

    def __call__(self) -> Tensor:
        return train_step(self.trainer, next(self.batches)).total.detach()

    def figures(self, milliseconds: float) -> dict[str, Any]:
        """Operations of a step of so many milliseconds, and their share of what the data sheet promises."""
        recipe = self.trainer.recipe
        few = synthetic.synthetic(self.trainer, max(2, recipe.method.smallest_batch))
        flops = model_flops(self.trainer.method, few)["total"] * recipe.data.batch_size
        name = torch.cuda.get_device_name() if self.trainer.device.type == "cuda" else "cpu"
        peak = peak_tflops(name, recipe.run.precision)
        return {"flops": flops, "mfu": None if peak is None else round(flops / milliseconds / 1e9 / peak, 4)}


class Fed(Synthetic):
    """The same on what the recipe's loader brings; workers end with it."""

    def __init__(self, recipe: Recipe, place: Place):
        super().__init__(recipe, place)
        self.feed = Feed(self.trainer.loader(), place.device)
        weakref.finalize(self, self.feed.close)
        self.calls, self.began = 0, time.perf_counter()

    def __call__(self) -> Tensor:
        self.calls += 1
        if self.calls == WARM:
            self.feed.waited()
            self.began = time.perf_counter()
        return train_step(self.trainer, self.feed.step(1)).total.detach()

    def figures(self, milliseconds: float) -> dict[str, Any]:
        """Also who decoded, and how much of the time steps waited."""
        waited = self.feed.waited() / max(1e-9, time.perf_counter() - self.began)
        found = super().figures(milliseconds)
        return {**found, "loader": self.trainer.recipe.data.loader, "data_wait": round(min(1.0, waited), 4)}
