import pytest
import torch

from vitkiln.engine.decoder import Decoder, image_of, patches_of
from vitkiln.engine.positions import sincos
from vitkiln.engine.vit import Attention

GRID, PATCH, WIDTH, SEEN = 4, 8, 16, 24


def decoder(prefix=1, **sizes):
    torch.manual_seed(0)
    return Decoder(SEEN, prefix, GRID, PATCH, **{"width": WIDTH, "depth": 2, "heads": 2, **sizes})


def shuffled(batch=3, kept=5, prefix=1):
    """What an encoder says of some patches, and which ones they are."""
    torch.manual_seed(1)
    order = torch.rand(batch, GRID**2).argsort(1)
    return torch.randn(batch, prefix + kept, SEEN), order, order.argsort(1)


@pytest.mark.parametrize("prefix", [1, 3])
def test_every_patch_gets_its_own_token_or_the_mask_token_and_its_true_place(prefix):
    found = decoder(prefix)
    tokens, order, restore = shuffled(prefix=prefix)
    entered, told = found.enter(tokens, restore), found.embed(tokens)
    table = sincos((GRID, GRID), WIDTH)
    torch.testing.assert_close(entered[:, :prefix], told[:, :prefix])
    for image in range(len(tokens)):
        for rank, patch in enumerate(order[image].tolist()):
            token = told[image, prefix + rank] if rank < 5 else found.mask_token[0, 0]
            torch.testing.assert_close(entered[image, prefix + patch], token + table[patch])


def test_patches_may_be_shown_in_any_order():
    found, (tokens, order, restore) = decoder(), shuffled()
    turn = torch.tensor([3, 0, 4, 1, 2])
    other = torch.cat([tokens[:, :1], tokens[:, 1:][:, turn]], 1)
    its_order = torch.cat([order[:, :5][:, turn], order[:, 5:]], 1)
    torch.testing.assert_close(found(other, its_order.argsort(1)), found(tokens, restore), atol=1e-5, rtol=1e-4)


def test_hidden_patches_differ_by_their_places_only():
    found, (tokens, order, restore) = decoder(), shuffled()
    found.position.zero_()
    hidden = found(tokens, restore)[0, order[0, 5:]]
    torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden), atol=1e-5, rtol=1e-4)


def test_prediction_is_pixels_of_every_patch_and_nothing_of_the_prefix():
    tokens, _, restore = shuffled(prefix=3)
    assert decoder(3)(tokens, restore).shape == (3, GRID**2, 3 * PATCH**2)


def test_gradients_reach_everything_that_learns():
    found, (tokens, _, restore) = decoder(), shuffled()
    found(tokens.requires_grad_(), restore).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in found.parameters())
    assert (tokens.grad.abs().sum(-1) > 0).all()


def test_initialisation_is_the_published_one():
    found = decoder(width=256, heads=4)
    packed = next(module for module in found.modules() if isinstance(module, Attention)).qkv
    bound = (6 / (256 + 3 * 256)) ** 0.5  # query, key and value as one matrix
    assert 0.99 * bound < packed.weight.abs().max() <= bound
    assert packed.bias.abs().max() == 0
    assert found.pixels.bias.abs().max() == 0
    assert found.mask_token.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_published_decoder_has_its_number_of_parameters():
    found = Decoder(768, 1, 14, 16, width=512, depth=8, heads=16)
    block = 12 * 512**2 + 13 * 512
    expected = (768 * 512 + 512) + 512 + 8 * block + 2 * 512 + (512 * 768 + 768)
    assert sum(p.numel() for p in found.parameters()) == expected == 26_008_320


def test_places_are_no_parameters_and_are_not_saved():
    assert not [name for name in decoder().state_dict() if "position" in name]


def test_patches_are_ordered_row_column_channel():
    image = torch.arange(4 * 6 * 3).view(1, 4, 6, 3)
    patches = patches_of(image, 2)
    assert patches.shape == (1, 6, 12)
    assert torch.equal(patches[0, 4], image[0, 2:4, 2:4].flatten())  # second row of patches, second column


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 8), (16, 48, 8), (7, 14, 7), (5, 3, 1)])
def test_patches_and_back_is_the_image(height, width, size):
    image = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    assert torch.equal(image_of(patches_of(image, size), height // size, size), image)
