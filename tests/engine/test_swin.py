"""Swin-T: timm's model with our images, our drop path and our interface around it."""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vitkiln.engine import swin
from vitkiln.engine.errors import MissingBackend, RecipeError
from vitkiln.engine.evaluate.features import checked, tokens
from vitkiln.engine.export import export, metadata
from vitkiln.engine.optim import blocks_above
from vitkiln.engine.recipe import load
from vitkiln.engine.settings import Encoder
from vitkiln.engine.settings.backbones import PARAMETERS
from vitkiln.engine.train import run
from vitkiln.engine.vit import blocks_of, build
from vitkiln.engine.vocabulary import Plan

FEW = {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}  # of timm's model, so that it is quick
RUN = (
    "encoder.name=swin_tiny", "encoder.width=null", "encoder.depth=null", "encoder.heads=null",
    "encoder.patch_size=32", "encoder.position=none", "encoder.init=truncated_normal", "encoder.image_size=64",
    "encoder.freeze_patch_embed=false", "encoder.drop_path=0.4", "method.hidden=16", "method.output=8",
    "data.source=fractal", "data.categories=4", "data.instances=4", "data.fractal_size=64", "data.batch_size=8",
    "data.workers=0", "run.tensorboard=false", "run.knn=false", "run.log_every=1",
)  # fmt: skip


def timm_there():
    spec = importlib.util.spec_from_file_location("with_timm", Path(__file__).with_name("with_timm.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.vision_transformer()
    return importlib.import_module("timm")


@pytest.fixture
def small(monkeypatch):
    """Builds a Swin of few channels for a size of image."""
    timm = timm_there()

    def model(size):
        return timm.create_model(swin.MODEL, img_size=size, num_classes=0, drop_path_rate=0.0, **FEW)

    monkeypatch.setattr(swin, "timm_model", model)

    def built(size=64, **more):
        torch.manual_seed(0)
        return build(Encoder(name="swin_tiny", image_size=size, **more))

    return built


def images(size=64, batch=2):
    return torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)


@pytest.fixture(scope="module")
def whole():
    """Swin-T itself, and timm's with its weights."""
    timm = timm_there()
    ours = build(Encoder(name="swin_tiny", image_size=64)).eval()
    theirs = timm.create_model(swin.MODEL, img_size=64, num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def test_timm_computes_the_same_with_its_own_names(whole):
    ours, theirs = whole
    pixels = images()
    with torch.no_grad():
        expected = theirs.forward_features(ours.normalised(pixels))
        assert torch.equal(ours(pixels), expected.flatten(1, 2))
        torch.testing.assert_close(ours.class_token(pixels), theirs.forward_head(expected))


def test_sizes_are_the_published_ones():
    timm_there()
    with torch.device("meta"):
        encoder = build(Encoder(name="swin_tiny"))
    assert sum(p.numel() for p in encoder.parameters()) == PARAMETERS["swin_tiny"]
    assert (encoder.width, encoder.prefix, len(encoder.blocks)) == (768, 0, 12)
    assert Encoder(name="swin_tiny").patches == 49


def test_a_dropped_branch_leaves_the_residual_alone(small):
    encoder, pixels = small(), images()
    nothing = torch.zeros(2, len(encoder.blocks), 2)
    with torch.no_grad():
        x = encoder.patch_embed(encoder.normalised(pixels))
        for stage in encoder.layers:
            x = stage.downsample(x)
        torch.testing.assert_close(encoder(pixels, branches=nothing), encoder.norm(x).flatten(1, 2))


def test_factors_belong_to_images_and_are_gone_afterwards(small):
    encoder, pixels = small(), images()
    branches = torch.stack([torch.ones(5, 2), torch.zeros(5, 2)])
    seen, plain = encoder(pixels, branches=branches), encoder(pixels)
    torch.testing.assert_close(seen[0], plain[0])
    assert (seen[1] - plain[1]).abs().max() > 0.01
    assert torch.equal(encoder(pixels), plain)


def test_a_step_neither_reads_nor_moves_the_global_generator(small):
    encoder = small(drop_path=0.5).train()
    before = torch.get_rng_state()
    encoder(torch.zeros(2, 64, 64, 3, dtype=torch.uint8), branches=torch.rand(2, 5, 2, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_weight_learns(small):
    encoder = small()
    encoder(images(), branches=torch.ones(2, 5, 2)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("size", [32, 96])
def test_images_of_another_size_are_seen(small, size):
    encoder = small()
    assert encoder(images(size)).shape == (2, (size // 32) ** 2, 96)


def test_another_size_in_between_changes_nothing(small):
    encoder, pixels = small(size=128), images(128)
    before = encoder(pixels)
    encoder(images(96))
    assert torch.equal(encoder(pixels), before)


def test_weights_of_another_image_size_are_fitted(small, tmp_path):
    large = small(size=128)
    save_file(large.state_dict(), tmp_path / "a.safetensors")
    fitted = small(weights=str(tmp_path / "a.safetensors"))
    table = "layers.2.blocks.0.attn.relative_position_bias_table"
    assert large.state_dict()[table].shape != fitted.state_dict()[table].shape
    assert torch.equal(large.norm.weight, fitted.norm.weight)


def test_weights_of_it_are_named_where_another_encoder_should_begin_with_them(small, tmp_path):
    save_file(small().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(RecipeError, match=r"it fits encoder\.name=swin_tiny"):
        build(Encoder(name="vit_tiny", weights=str(tmp_path / "a.safetensors")))


def test_rates_decay_from_block_to_block(small):
    encoder = small()
    above = blocks_above(encoder)
    assert {above[p] for p in encoder.patch_embed.parameters()} == {6}
    assert [{above[p] for p in block.parameters()} for block in encoder.blocks] == [{5}, {4}, {3}, {2}, {1}]
    assert {above[p] for p in encoder.layers[1].downsample.parameters()} == {5}
    assert {above[p] for p in encoder.norm.parameters()} == {0}


def test_a_compiled_block_computes_the_same(small):
    encoder, pixels, branches = small(size=128), images(128), torch.rand(2, 5, 2)
    compiled = copy.deepcopy(encoder)
    assert blocks_of(nn.ModuleList([compiled])) == compiled.blocks
    compiled.blocks[2].compile(backend="aot_eager", fullgraph=True)  # its windows are shifted
    assert any(compiled.blocks[2].shift_size)
    torch.testing.assert_close(compiled(pixels, branches=branches), encoder(pixels, branches=branches))


def test_bf16_computes_nearly_the_same(small):
    encoder, pixels = small(), images()
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(pixels)
    torch.testing.assert_close(rough.float(), encoder(pixels), atol=0.1, rtol=0.1)


def test_features_are_those_of_its_tokens(small):
    encoder, pixels = small(), images()
    found = tokens(encoder, pixels, ("class", "mean", "mean_norm"))
    with torch.no_grad():
        torch.testing.assert_close(found["class"], encoder(pixels).mean(1))
        torch.testing.assert_close(found["mean"], found["class"])
        torch.testing.assert_close(found["mean_norm"], encoder.norm(encoder.stream(pixels).mean(1)))
    with pytest.raises(RecipeError, match="last-4: swin_tiny has no class token in its blocks"):
        checked("last-4", encoder)


def test_a_plan_that_hides_patches_is_refused(small):
    with pytest.raises(ValueError, match="swin_tiny sees every patch at its place"):
        small()(images(), Plan(torch.zeros(2, 3, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"patch_size": 16}, "patch_size=16: must be 32 for swin_tiny"),
        ({"width": 96}, "width=96: must be null for swin_tiny"),
        ({"position": "learned"}, "position=learned: must be none for swin_tiny"),
        ({"image_size": 100}, "image_size=100: must be a multiple of encoder.patch_size=32; the nearest is 96"),
    ],
)
def test_what_it_leaves_no_choice_of_is_said(more, fault):
    with pytest.raises(ValueError, match=fault):
        Encoder(name="swin_tiny", **more)


def test_without_timm_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        MissingBackend, match=r"encoder\.name=swin_tiny: timm is not installed; pip install 'vitkiln\[ti"
    ):
        build(Encoder(name="swin_tiny"))


@pytest.mark.parametrize("name", ["mocov3", "dino"])
def test_a_stopped_run_of_it_goes_on_bit_for_bit(small, tmp_path, name):
    sizes = ("method.local_size=32", "method.bottleneck=8") if name == "dino" else ()
    start = (*RUN, *sizes, "run.precision=fp32")
    expected = run(load(name, [*start, "run.steps=3", "run.checkpoint_every=1"], short=True), tmp_path / "a")
    folder = tmp_path / "b"
    copied(expected, folder)
    resumed = run(load(name, [*start, "run.steps=3", "run.checkpoint_every=1"], short=True), folder)
    first, second = (load_file(place / "export" / "encoder.safetensors") for place in (expected, resumed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def copied(source, target):
    """The run folder as it was before its last step."""
    import shutil

    shutil.copytree(source, target)
    shutil.rmtree(target / "checkpoints" / "step-0000003")
    shutil.rmtree(target / "export")
    status = json.loads((target / "status.json").read_text())
    (target / "status.json").write_text(json.dumps({**status, "state": "preempted"}))


def test_an_export_says_what_timm_makes_of_it(small, tmp_path):
    folder = run(load("simclr", [*RUN, "run.steps=1"], short=True), tmp_path / "run")
    file = export(folder, tmp_path / "out.safetensors")
    said = json.loads(metadata(file)["timm"])
    assert said == {"model_name": swin.MODEL, "img_size": 64, "num_classes": 0}
    timm_there().create_model(**said, **FEW).load_state_dict(load_file(file))
