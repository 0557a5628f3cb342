import pytest
import torch
from torch import nn

from vitkiln.engine.decoder import PixelHead, image_of, painted, patches_of


def head(width=24, size=4):
    torch.manual_seed(0)
    return PixelHead(width, size)


def test_the_last_layer_is_a_transposed_convolution():
    found, x = head(), torch.randn(2, 6, 24)
    published = nn.ConvTranspose2d(24, 3, 4, 4)
    with torch.no_grad():
        published.weight.copy_(found.weight.view(4, 4, 3, 24).permute(3, 2, 0, 1))
        published.bias.copy_(found.bias)
    before = x
    for layer in found.layers:
        before = nn.functional.gelu(layer(before))
    expected = published(before.transpose(1, 2).unflatten(2, (2, 3)))
    torch.testing.assert_close(image_of(found(x), 2, 4), expected.permute(0, 2, 3, 1))


def test_it_begins_as_published():
    found, theirs = head(256, 8), nn.ConvTranspose2d(256, 3, 8, 8)
    assert found.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.05)
    assert found.weight.abs().max().item() == pytest.approx(theirs.weight.abs().max().item(), rel=0.01)
    assert found.bias.abs().max() <= (3 * 8 * 8) ** -0.5
    assert all(layer.weight.std().item() == pytest.approx(0.02, rel=0.05) for layer in found.layers)
    assert not any(layer.bias.any() for layer in found.layers)


def test_the_gradient_is_that_of_plain_layers():
    found, x = head().double(), torch.randn(2, 6, 24, dtype=torch.float64)
    assert torch.autograd.gradcheck(found, (x[:1, :2].requires_grad_(),))
    grads = torch.autograd.grad(found(x).sum(), (found.bias,))[0]
    torch.testing.assert_close(grads, torch.full((3,), 2.0 * 6 * 16, dtype=torch.float64))


def test_what_is_painted_is_cut_at_black_and_white():
    said = torch.tensor([[[-9.0, 0.0, 9.0]]])
    assert painted(said, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).tolist() == [[[0, 128, 255]]]


def test_painting_undoes_normalisation():
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    said = patches_of((pixels / 255 - torch.tensor(mean)) / torch.tensor(std), 4)
    assert torch.equal(painted(said, mean, std), patches_of(pixels, 4))
