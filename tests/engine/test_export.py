"""Every shipped recipe's encoder, exported, is the one that is evaluated, and timm computes the same with it."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vitkiln.engine import checkpoint, methods
from vitkiln.engine.export import export, metadata
from vitkiln.engine.recipe import load, shipped

TINY = ("image_size=32", "patch_size=8", "width=32", "depth=2", "heads=2", "drop_path=0.0", "weights=null")
SMALL = {  # where the method has such a key
    "hidden": 32, "output": 16, "bottleneck": 16, "local_size": 16,
    "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


def timm_module():
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).with_name("with_timm.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.vision_transformer()


@pytest.fixture(scope="module", params=shipped())
def exported(request, tmp_path_factory):
    """A method of the recipe, of which no two weights are alike, and the file that its checkpoint becomes."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = load(request.param, [f"encoder.{key}" for key in TINY], short=True)
    small = [f"method.{key}={value}" for key, value in SMALL.items() if hasattr(recipe.method, key)]
    recipe = load(request.param, [*(f"encoder.{key}" for key in TINY), *small], short=True)
    recipe = recipe.model_copy(update={"method": recipe.method.with_data(4)})
    torch.manual_seed(0)
    method = methods.find(recipe.method.name)(recipe.method, recipe.encoder)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.normal_(std=0.1)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    checkpoint.save(folder / "checkpoints", 1, method, optimizer, {"seconds": 0.0}, recipe.to_yaml())
    return method, export(folder, folder / "encoder.safetensors")


def test_what_is_exported_is_what_is_evaluated(exported):
    method, path = exported
    expected, found = method.backbone().state_dict(), load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_timm_computes_the_same_features(exported):
    method, path = exported
    theirs = timm_module().VisionTransformer(**json.loads(metadata(path)["timm"])).eval()
    theirs.load_state_dict(load_file(path))
    images = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(json.loads(metadata(path)[key])) for key in ("mean", "std"))
    normalised = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours = method.backbone().eval()(images)
        torch.testing.assert_close(ours, theirs.forward_features(normalised), rtol=1e-5, atol=1e-5)


def test_of_a_teacher_and_a_student_the_teacher_is_exported():
    """DINO, alone and under DILEMMA."""
    for name in ("dino", "dilemma_dino"):
        recipe = load(name, [*(f"encoder.{key}" for key in TINY), "method.output=16"], short=True)
        method = methods.find(recipe.method.name)(recipe.method, recipe.encoder)
        assert not any(parameter.requires_grad for parameter in method.backbone().parameters())
