"""Pictures that a glance tells apart, and checkpoints of encoders that have seen nothing."""

import pytest
from PIL import Image

from vitkiln.engine.recipe import load
from vitkiln.engine.train import run

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
TINY = ("encoder.image_size=32", "encoder.patch_size=8", "encoder.width=32", "encoder.depth=2", "encoder.heads=2")
RUN = ("run.steps=1", "run.precision=fp32", "run.device=cpu", "run.tensorboard=false", "run.knn=false")
DATA = ("data.source=fractal", "data.categories=4", "data.instances=8", "data.fractal_size=32",
        "data.fractal_points=300", "data.batch_size=8", "data.workers=0", "data.val=null")  # fmt: skip


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three classes in train/ and val/, twenty and seven images each, of sizes that need scaling."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 20), ("val", 7)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                shade = tuple(max(0, min(255, part + 3 * (number % 8) - 12)) for part in colour)
                Image.new("RGB", (40 + number % 3, 44), shade).save(root / split / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """One step of MoCo v3 on formulas."""
    more = ("method.hidden=16", "method.output=8")
    return run(load("mocov3", [*TINY, *RUN, *DATA, *more], short=True), tmp_path_factory.mktemp("moco") / "run")


@pytest.fixture(scope="session")
def patchwise(tmp_path_factory):
    """One step of MAE."""
    more = ("method.decoder_width=32", "method.decoder_depth=1", "method.decoder_heads=2")
    return run(load("mae", [*TINY, *RUN, *DATA, *more], short=True), tmp_path_factory.mktemp("mae") / "run")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory, photos):
    """A supervised run of the photos, long enough to know them."""
    data = (f"data.root={photos}", "data.batch_size=12", "data.workers=0", "run.epochs=20")
    plain = ("method.mixup=0.0", "method.cutmix=0.0", "method.randaugment=null", "method.erase=0.0", "optim.lr=0.01")
    steps = [key if not key.startswith("run.steps") else "run.steps=40" for key in RUN]
    more = ("optim.lr_scale=null", "optim.warmup_epochs=0", "encoder.drop_path=0.0")
    recipe = load("supervised", [*TINY, *steps, *data, *plain, *more], short=False)
    return run(recipe, tmp_path_factory.mktemp("supervised") / "run")
