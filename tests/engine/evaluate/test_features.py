"""Which tokens are taken for features."""

import pytest
import torch
import torch.nn.functional as F

from vitkiln.engine.errors import RecipeError
from vitkiln.engine.evaluate.features import checked, gathered, rows_of, tokens
from vitkiln.engine.pooling import pooled
from vitkiln.engine.settings import Encoder
from vitkiln.engine.vit import build

KINDS = ("class", "mean", "class+mean", "mean_norm", "last-2", "last-3")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    built = build(
        Encoder(image_size=32, patch_size=8, width=32, depth=3, heads=2, registers=2, init="truncated_normal")
    )
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built.eval()


@pytest.fixture
def images():
    return torch.randint(256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_class_and_mean_are_those_of_the_last_norm(encoder, images):
    found, y = tokens(encoder, images, KINDS), encoder(images)
    torch.testing.assert_close(found["class"], y[:, 0])
    torch.testing.assert_close(found["mean"], y[:, 3:].mean(1))
    torch.testing.assert_close(found["class+mean"], torch.cat([y[:, 0], y[:, 3:].mean(1)], 1))


def test_the_norm_of_the_mean_is_that_of_the_stream_before_it(encoder, images):
    streams = []
    encoder.blocks[-1].register_forward_hook(lambda module, inputs, output: streams.append(output[0]))
    encoder(images)
    found = tokens(encoder, images, KINDS)
    torch.testing.assert_close(found["mean_norm"], encoder.norm(streams[0][:, 3:].mean(1)))
    torch.testing.assert_close(found["mean_norm"], pooled(encoder, images, "mean_norm"))


def test_the_last_blocks_class_tokens_pass_the_last_norm(encoder, images):
    outputs = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output[0][:, 0]))
    encoder(images)
    norm = encoder.norm
    expected = [F.layer_norm(x, (32,), norm.weight, norm.bias, 1e-6) for x in outputs[:3]]
    found = tokens(encoder, images, KINDS)
    torch.testing.assert_close(found["last-3"], torch.cat(expected, 1))
    torch.testing.assert_close(found["last-2"], torch.cat(expected[1:], 1))


def test_the_short_way_to_the_class_token_gives_the_same(encoder, images):
    torch.testing.assert_close(tokens(encoder, images, ("class",))["class"], tokens(encoder, images, KINDS)["class"])


def test_one_block_is_the_class_token(encoder, images):
    found = tokens(encoder, images, ("class", "last-1"))
    torch.testing.assert_close(found["last-1"], found["class"])


def test_reading_leaves_the_encoder_as_it_was(encoder, images):
    encoder.train()
    counted = []
    found, numbers = gathered(rows_of(encoder, [(images, torch.arange(5))], ("class",), counted.append), half=True)
    assert encoder.training
    assert (found["class"].dtype, found["class"].shape) == (torch.float16, (5, 32))
    assert (counted, numbers.tolist()) == ([5], [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("clas", "--features clas: unknown; did you mean class?"),
        ("zzz", "--features zzz: unknown; must be one of class, mean, class+mean, mean_norm, last-N"),
        ("last-0", "--features last-0: unknown; did you mean last-4?"),
        ("last-9", "--features last-9: the encoder has 3 blocks"),
    ],
)
def test_other_features_are_refused(encoder, kind, text):
    with pytest.raises(RecipeError) as caught:
        checked(kind, encoder)
    assert str(caught.value) == text
