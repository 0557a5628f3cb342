"""A model of timm's keeps its results, weights and random numbers, and gets its own forward back."""

import copy
import importlib.util
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from vitkiln.kernels import patch_timm

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}


@pytest.fixture(scope="module")
def timm():
    file = Path(__file__).parents[1] / "engine" / "with_timm.py"
    spec = importlib.util.spec_from_file_location("with_timm", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.vision_transformer()


@pytest.fixture
def model(timm):
    """Makes a model whose every parameter counts."""

    def make(**more):
        torch.manual_seed(0)
        made = timm.VisionTransformer(**{**SMALL, **more})
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.2)
        return made

    return make


def images():
    return torch.rand(3, 3, 32, 32)


def results(model, pixels):
    """The output, and the gradients of all parameters."""
    torch.manual_seed(1)
    out = model(pixels)
    return [out.detach(), *torch.autograd.grad(out.square().mean(), list(model.parameters()))]


VARIANTS = {
    "plain": {},
    "layer scale": {"init_values": 0.3},
    "drop path": {"drop_path_rate": 0.4},
    "both, and dropout of projections": {"init_values": 0.3, "drop_path_rate": 0.4, "proj_drop_rate": 0.2},
    "no bias": {"qkv_bias": False},
    "registers": {"reg_tokens": 2},
    "average pooling": {"global_pool": "avg", "class_token": False},
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_gradients_are_those_of_timm(model, variant, training):
    theirs = model(**VARIANTS[variant]).train(training)
    ours = copy.deepcopy(theirs)
    patch_timm(ours)
    pixels = images()
    for actual, expected in zip(results(ours, pixels), results(theirs, pixels), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_norms_and_attention_of_every_block_are_replaced_and_its_products_are_not(model):
    patched, ran = model().eval(), []
    for name, module in patched.blocks.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    patch_timm(patched)
    patched(images())
    parts = {name.partition(".")[2] for name in ran if name.startswith("0.")}
    assert parts >= {"attn.qkv", "attn.proj", "attn.proj_drop", "mlp", "mlp.fc1", "mlp.fc2", "drop_path2"}
    assert not parts & {"norm1", "norm2", "attn", "ls1", "drop_path1"}


def test_under_autocast_results_are_those_of_timm(model):
    theirs = model().eval()
    ours = copy.deepcopy(theirs)
    patch_timm(ours)
    pixels = images()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        actual, expected = ours(pixels).float(), theirs(pixels).float()
    assert (actual - expected).norm() <= 2e-2 * expected.norm()


def test_parameters_and_their_names_do_not_change(model):
    patched = model()
    before = {name: tensor.data_ptr() for name, tensor in patched.state_dict(keep_vars=True).items()}
    patch_timm(patched)
    assert {name: tensor.data_ptr() for name, tensor in patched.state_dict(keep_vars=True).items()} == before


def test_restore_gives_the_forward_back_and_may_be_repeated(model):
    patched = model().eval()
    expected = patched(images_ := images())
    handle = patch_timm(patched)
    assert all("forward" in vars(block) for block in patched.blocks)
    handle.restore()
    handle.restore()
    assert not any("forward" in vars(block) for block in patched.blocks)
    assert torch.equal(patched(images_), expected)


def test_a_with_statement_restores_also_after_an_error(model):
    patched = model()
    with pytest.raises(ValueError, match="is_causal"), patch_timm(patched):
        patched.blocks[0](torch.zeros(1, 17, 32), is_causal=True)
    assert "forward" not in vars(patched.blocks[0])


def test_a_patched_model_can_be_patched_again_after_it_was_restored(model):
    patched = model()
    patch_timm(patched).restore()
    patch_timm(patched)
    assert "forward" in vars(patched.blocks[1])


def test_a_patched_model_is_saved_and_copied_with_its_own_weights(model):
    patched = model().eval()
    patch_timm(patched)
    stream = io.BytesIO()
    torch.save(patched, stream)
    stream.seek(0)
    pixels = images()
    expected = patched(pixels).clone()
    copies = torch.load(stream, weights_only=False), copy.deepcopy(patched)
    nn.init.zeros_(patched.blocks[0].attn.proj.weight)
    for other in copies:
        assert torch.equal(other(pixels), expected)


def test_a_patched_model_compiles_in_one_graph(model):
    patched = model().eval()
    expected = patched(pixels := images())
    with patch_timm(patched):
        compiled = torch.compile(patched, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_model_without_such_blocks_is_refused():
    with pytest.raises(ValueError, match="model: 'Sequential'; must be a model with blocks of timm's"):
        patch_timm(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"qk_norm": True}, r"blocks\.0\.attn\.q_norm: LayerNorm.*; must be absent"),
        ({"attn_drop_rate": 0.1}, r"blocks\.0\.attn\.attn_drop: Dropout\(p=0\.1.*dropout of attention"),
        ({"norm_layer": nn.RMSNorm}, r"blocks\.0\.norm1: RMSNorm.*; must be a LayerNorm"),
        ({"scale_attn_norm": True}, r"blocks\.0\.attn\.norm: LayerNorm.*; must be absent"),
    ],
)
def test_what_is_not_served_is_refused_by_name(model, more, message):
    refused = model(**more)
    with pytest.raises(ValueError, match=message):
        patch_timm(refused)
    assert not any("forward" in vars(block) for block in refused.blocks)


@pytest.mark.parametrize("name", ["ResPostBlock", "ParallelThingsBlock", "ParallelScalingBlock"])
def test_other_blocks_of_timm_are_refused(model, timm, name):
    refused = model(block_fn=getattr(timm, name))
    with pytest.raises(ValueError, match=r"must be a (block of|model with blocks of)"):
        patch_timm(refused)


def test_one_block_that_cannot_be_served_leaves_the_others_alone(model):
    refused = model()
    refused.blocks[1].attn.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.extra: Linear"):
        patch_timm(refused)
    assert "forward" not in vars(refused.blocks[0])


def test_patching_twice_is_refused(model):
    patched = model()
    patch_timm(patched)
    with pytest.raises(ValueError, match=r"blocks\.0: Block with a forward of its own; must be as timm made it"):
        patch_timm(patched)


@pytest.mark.parametrize("given", [{"attn_mask": torch.zeros(17, 17)}, {"is_causal": True}])
def test_a_mask_is_refused_when_it_is_given(model, given):
    patched = model()
    patch_timm(patched)
    with pytest.raises(ValueError, match="masks are not served"):
        patched.blocks[0](torch.zeros(1, 17, 32), **given)
