"""RelViT on the encoders that it was published with beside the plain one: Swin-T and T2T-ViT-14."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from vitkiln.engine import methods, swin
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder, relvit
from vitkiln.engine.vocabulary import Batch

TASKS = {"distances": 1.0, "angles": 1.0, "classification": 1.0, "classes": 4}
FEW = {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}  # of timm's Swin, so that it is quick


def timm_there():
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).parents[1] / "with_timm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.vision_transformer()
    return importlib.import_module("timm")


def two_steps(encoder, batch_size):
    """The method, and the loss of the first step and the second, on the same images."""
    torch.manual_seed(0)
    method = methods.find("relvit")(relvit.Settings(**TASKS), encoder)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    size = encoder.image_size
    images = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8)
    batch = Batch((images,), torch.arange(batch_size), torch.tensor([0, 1]), torch.arange(batch_size) % 4)
    lost = []
    for _ in range(2):
        losses = method(batch)
        losses.total.backward()
        lost.append(losses)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    return method, lost


@pytest.mark.parametrize("name", ["swin_tiny", "t2t_vit_14"])
def test_every_task_trains_on_every_encoder(monkeypatch, name):
    few = {"width": 32, "depth": 2, "heads": 2} if name == "t2t_vit_14" else {}
    if name == "swin_tiny":
        timm = timm_there()
        made = lambda size: timm.create_model(swin.MODEL, img_size=size, num_classes=0, drop_path_rate=0.0, **FEW)  # noqa: E731
        monkeypatch.setattr(swin, "timm_model", made)
    method, (first, second) = two_steps(Encoder(name=name, image_size=96, patch_size=32, drop_path=0.1, **few), 4)
    assert {*first.terms} == {"relations", "places", "distances", "angles", "classification"}
    assert method.side == 3
    assert abs(first.terms["relations"] - math.log(9)) < 0.5
    assert abs(first.terms["places"] - math.log(9)) < 0.5
    assert second.total < first.total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny", "t2t_vit_14"])
def test_the_published_encoders_train_on_49_tokens(name):
    timm_there()
    method, (first, second) = two_steps(Encoder(name=name, patch_size=32), 2)
    assert method.side**2 == 49
    assert abs(first.terms["places"] - math.log(49)) < 1
    assert second.total < first.total


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("relvit", ["encoder.name=swin_tiny"]),
        ("relvit", ["encoder.name=t2t_vit_14", "encoder.position=sincos"]),
        ("relvit_joint", ["encoder.name=swin_tiny", "encoder.position=none"]),
        ("relvit_joint", ["encoder.name=t2t_vit_14", "encoder.position=sincos"]),
    ],
)
def test_the_shipped_recipes_take_them_by_name(recipe, overrides):
    encoder = load(recipe, [*overrides, "data.root=images"], short=False).encoder
    assert (encoder.patches, encoder.drop_path) == (49, 0.1)
