"""Training on formulas is supervised training with their own settings; its loss begins at ln C."""

import math

import pytest
import torch

from vitkiln.engine import methods
from vitkiln.engine.methods.fractal import Fractal
from vitkiln.engine.methods.supervised import Supervised
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.fractal import Settings
from vitkiln.engine.vocabulary import Batch

TINY = Encoder(image_size=16, patch_size=8, width=16, depth=1, heads=2)


def built(classes: int, **changes) -> Fractal:
    return Fractal(Settings(**changes).with_data(classes), TINY)


def batch(classes: int, size: int = 6) -> Batch:
    images = torch.randint(0, 256, (size, 16, 16, 3), dtype=torch.uint8)
    return Batch((images,), torch.arange(size), torch.tensor([0, 1]), torch.randint(0, classes, (size,)))


@pytest.mark.parametrize(("classes", "loss"), [(1000, 6.9078), (21_000, 9.9523)])
@pytest.mark.parametrize("mixing", [{"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}, {}], ids=["plain", "mixed"])
def test_without_knowledge_the_loss_is_ln_of_the_categories(classes, loss, mixing):
    method = built(classes, **mixing)
    torch.nn.init.zeros_(method.head.weight)
    found = method(batch(classes)).total.item()
    assert found == pytest.approx(math.log(classes), rel=1e-5)
    assert found == pytest.approx(loss, abs=1e-4)


def test_it_is_found_by_its_name_and_is_supervised_training():
    assert methods.find("fractal") is Fractal
    assert issubclass(Fractal, Supervised)


def test_flips_are_instances_and_not_drawn():
    (view,) = built(10).views()
    assert (view.flip, view.vertical_flip, view.interpolation) == (0.0, 0.0, "bicubic")
    assert view.randaugment == "rand-m9-mstd0.5-inc1"


def test_the_recipe_is_the_published_one():
    recipe = load("fractal", short=False)
    data, optim, method = recipe.data, recipe.optim, recipe.method
    assert (data.categories, data.instances, data.fractal_size, data.fractal_points) == (1000, 1000, 362, 200_000)
    assert (data.batch_size, data.repeats, recipe.encoder.drop_path, recipe.encoder.name) == (256, 3, 0.1, "vit_tiny")
    assert (optim.name, optim.lr, optim.lr_scale, optim.weight_decay, optim.warmup_epochs) == (
        "adamw",
        1e-3,
        None,
        0.05,
        5,
    )
    assert isinstance(method, Settings)
    assert (method.mixup, method.cutmix, method.smoothing, method.erase) == (0.8, 1.0, 0.1, 0.25)
    assert recipe.run.epochs == 300
    assert recipe.encoder.mean == recipe.encoder.std == (0.5, 0.5, 0.5)


def test_fine_tuning_is_the_published_one():
    recipe = load("fractal_finetune_cifar10", ["data.root=/cifar10"])
    optim = recipe.optim
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
    assert (recipe.data.batch_size, recipe.run.epochs, optim.warmup_epochs) == (768, 1000, 10)
    assert recipe.encoder.drop_path == recipe.method.erase == 0.0  # type: ignore[attr-defined]


def test_a_few_steps_tell_two_formulas_apart():
    from vitkiln.engine.data.fractal import Fractals
    from vitkiln.engine.settings.formulas import Formulas

    plain = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "erase": 0.0}
    source = Fractals(Formulas(categories=2, instances=8, fractal_size=16, fractal_points=2000), 0)
    method = built(2, **plain)
    images = torch.stack([torch.from_numpy(source.pixels(i).copy()) for i in range(16)])[..., None].expand(
        -1, -1, -1, 3
    )
    labels = torch.tensor([source.label(i) for i in range(16)])
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    for step in range(60):
        losses = method(Batch((images.contiguous(),), torch.arange(16), torch.tensor([0, step]), labels))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.total.item() < 0.3
