"""Patch transforms and mega-patches against plain loops over patches and pixels."""

import colorsys
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from vitkiln import kernels
from vitkiln.engine import patch_colours
from vitkiln.engine.mega_patches import CUTS, cells, merged
from vitkiln.engine.patch_transforms import NUMBERS, PATCHES, PatchTransforms, extent, noisy, permutation
from vitkiln.engine.resize import resized
from vitkiln.kernels.augment_views import layout

SEED = torch.tensor([3, 7])
STRENGTHS = (0.4, 0.4, 0.4, 0.1)


def patches(batch=3, count=4, size=8, floats=False):
    torch.manual_seed(0)
    drawn = torch.randint(0, 256, (batch, count, size, size, 3), dtype=torch.uint8)
    return torch.randn(drawn.shape) if floats else drawn


def transforms(crop="random", jitter=STRENGTHS, probability=0.8, gray=0.2):
    return PatchTransforms(crop, jitter, probability, gray)


def interpolated(square, size):
    """One image [h, w, 3] by PyTorch."""
    planes = square.permute(2, 0, 1)[None].double()
    return F.interpolate(planes, (size, size), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


# crops


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("crop", ["random", "center"])
@pytest.mark.parametrize("size", [4, 8, 16])
def test_every_patch_is_cropped_by_its_own_numbers(crop, size, floats):
    given, ids = patches(size=size, floats=floats), torch.arange(3)
    found = transforms(crop, probability=0.0, gray=0.0)(given, SEED, ids)
    numbers = kernels.uniform(SEED, ids, 4 * NUMBERS, PATCHES).view(3, 4, NUMBERS)
    start, room, side = extent(crop, size)
    for image in range(3):
        for place in range(4):
            top, left = (start + int(number * (room + 1)) for number in numbers[image, place, :2].tolist())
            square = given[image, place, top : top + side, left : left + side]
            expected = interpolated(square, size)
            error = (found[image, place].double() - expected).abs().max()
            assert error <= (1e-5 if floats else 0.5 + 1e-4)


def test_crops_lie_anywhere_that_they_fit():
    numbers = torch.rand(4000, 2)
    row = torch.arange(16.0).repeat(4000, 1)[:, :, None, None].expand(-1, -1, 16, 3)
    first = transforms().cropped(row, numbers)[:, 0, 0, 0].round()
    counts = first.long().bincount(minlength=3)
    assert len(counts) == 3  # of 14 pixels in 16
    assert (counts / 4000 - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 4000)


def test_the_whole_patch_is_left_as_it_is():
    given = patches()
    assert torch.equal(transforms("none", probability=0.0, gray=0.0)(given, SEED, torch.arange(3)), given)


# colours


def loops(picture, row):
    """Jitter and grey of one float picture, pixel by pixel."""
    pixels = [list(map(float, pixel)) for pixel in picture.flatten(0, 1).tolist()]

    def grey(pixel):
        return 0.2989 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    for operation in row[layout.ORDER].long().tolist() if row[layout.JITTER] else []:
        if operation == 3:
            turned = []
            for pixel in pixels:
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                turned.append(list(colorsys.hsv_to_rgb((hue + float(row[layout.HUE])) % 1, saturation, value)))
            pixels = turned
            continue
        factor = float(row[layout.FACTORS][operation])
        mean = sum(map(grey, pixels)) / len(pixels)
        bases = [(0.0, mean, grey(pixel))[operation] for pixel in pixels]
        pixels = [
            [min(1.0, max(0.0, base + factor * (channel - base))) for channel in pixel]
            for pixel, base in zip(pixels, bases, strict=True)
        ]
    if row[layout.GRAY]:
        pixels = [[grey(pixel)] * 3 for pixel in pixels]
    return torch.tensor(pixels).view(picture.shape)


def test_floats_are_jittered_as_pixel_by_pixel():
    torch.manual_seed(1)
    pictures = torch.rand(40, 4, 4, 3)
    rows = patch_colours.drawn(torch.rand(40, patch_colours.NUMBERS), STRENGTHS, 0.8, 0.2)
    found = patch_colours.coloured(pictures, rows)
    for picture, row, result in zip(pictures, rows, found, strict=True):
        torch.testing.assert_close(result, loops(picture, row), atol=2e-6, rtol=1e-5)


def test_floats_and_8_bits_differ_by_rounding_only():
    torch.manual_seed(2)
    pictures = torch.randint(0, 256, (60, 8, 8, 3), dtype=torch.uint8)
    rows = patch_colours.drawn(torch.rand(60, patch_colours.NUMBERS), STRENGTHS, 1.0, 0.2)
    exact, rounded = patch_colours.coloured(pictures / 255, rows), patch_colours.coloured(pictures, rows) / 255
    assert (exact - rounded).abs().mean() < 2 / 255
    assert (exact - rounded).abs().flatten().quantile(0.99) < 10 / 255


def test_normalised_patches_that_are_jittered_end_in_nought_to_one():
    """As published: that is what `official_order` is for. Hue alone cuts only what is not the largest channel."""
    found = transforms("none", probability=1.0, gray=0.0)(2 * patches(20, floats=True), SEED, torch.arange(20))
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("value", [0.0, -1.0, 2.0])
def test_one_colour_beyond_nought_and_one_stays_finite(value):
    flat = torch.tensor([value, min(value, 0.0), -0.5]).expand(64, 4, 4, 3)
    rows = patch_colours.drawn(torch.rand(64, patch_colours.NUMBERS), STRENGTHS, 1.0, 0.5)
    assert torch.isfinite(patch_colours.coloured(flat, rows)).all()


@pytest.mark.parametrize(("probability", "gray"), [(0.8, 0.2), (0.3, 0.6), (0.0, 1.0)])
def test_the_written_probabilities_count(probability, gray):
    rows = patch_colours.drawn(torch.rand(20_000, patch_colours.NUMBERS), STRENGTHS, probability, gray)
    for column, expected in ((layout.JITTER, probability), (layout.GRAY, gray)):
        spread = 4 * math.sqrt(expected * (1 - expected) / 20_000)
        assert rows[:, column].mean().item() == pytest.approx(expected, abs=spread + 1e-9)


def test_factors_and_hue_fill_their_ranges():
    rows = patch_colours.drawn(torch.rand(20_000, patch_colours.NUMBERS), (0.4, 1.5, 0.0, 0.1), 1.0, 0.0)
    ends = [(0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.1, 0.1)]
    columns = [layout.FACTORS.start, layout.FACTORS.start + 1, layout.FACTORS.start + 2, layout.HUE]
    for column, (low, high) in zip(columns, ends, strict=True):
        assert rows[:, column].min().item() == pytest.approx(low, abs=2e-3)
        assert rows[:, column].max().item() == pytest.approx(high, abs=2e-3)


def test_every_order_of_the_four_operations_is_as_likely():
    rows = patch_colours.drawn(torch.rand(24_000, patch_colours.NUMBERS), STRENGTHS, 1.0, 0.0)
    codes = (rows[:, layout.ORDER].long() * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert (counts / 24_000 - 1 / 24).abs().max() < 4 * math.sqrt(1 / 24 / 24_000)


# randomness


def test_a_patch_changes_by_seed_step_and_sample_alone():
    given, whole = patches(4), transforms()
    found = whole(given, SEED, torch.arange(4))
    assert torch.equal(found[2:], whole(given[2:], SEED, torch.tensor([2, 3])))
    assert not torch.equal(found, whole(given, torch.tensor([3, 8]), torch.arange(4)))


def test_patches_of_an_image_change_independently():
    same = patches(1, 1).expand(2, 64, 8, 8, 3)
    found = transforms(probability=1.0)(same, SEED, torch.arange(2)).flatten(0, 1)
    assert len(found.flatten(1).unique(dim=0)) > 120  # of 128


def test_shuffles_are_permutations_of_each_image():
    order = permutation(SEED, torch.arange(500), 9)
    assert torch.equal(order.sort(1).values, torch.arange(9).expand(500, 9))
    first = order[:, 0].bincount(minlength=9) / 500
    assert (first - 1 / 9).abs().max() < 4 * math.sqrt(1 / 9 / 500)


@pytest.mark.parametrize("floats", [True, False])
def test_noise_covers_whole_patches_as_often_as_asked(floats):
    images = torch.full((200, 16, 16, 3), 77, dtype=torch.uint8)
    images = images.float() if floats else images
    scaling = ((0.5, 0.4, 0.3), (0.1, 0.1, 0.1))
    found = noisy(images, 8, 0.2, SEED, torch.arange(200), scaling)
    changed = (found != images).view(200, 2, 8, 2, 8, 3).float().mean((2, 4, 5)).flatten()
    assert ((changed == 0) | (changed > 0.8)).all()
    assert (changed > 0).float().mean().item() == pytest.approx(0.2, abs=4 * 0.4 / math.sqrt(800))
    noise = found.view(200, 2, 8, 2, 8, 3).transpose(2, 3).flatten(0, 2)[changed > 0].double()
    mean = torch.zeros(3) if floats else 255 * torch.tensor(scaling[0])
    torch.testing.assert_close(noise.mean((0, 1, 2)), mean.double(), atol=0.05 if floats else 1.0, rtol=0)


# mega-patches


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("side", [2, 3, 6])
def test_mega_patches_are_the_resized_cells(side, floats):
    torch.manual_seed(0)
    images, ids = torch.randint(0, 256, (4, 56, 56, 3), dtype=torch.uint8), torch.arange(4)
    given = images.float() if floats else images
    found = merged(given, SEED, ids, 8, side)
    assert found.shape == (4, side * 8, side * 8, 3)
    assert found.dtype == given.dtype
    numbers = kernels.uniform(SEED, ids, 12, CUTS)
    for image in range(4):
        rows, columns = (bounds(part) for part in numbers[image].view(2, 6).tolist())
        tops, lefts = (list(pairwise([0, *sorted(axis[: side - 1]), 7])) for axis in (rows, columns))
        cells = [[given[image, 8 * t : 8 * b, 8 * x : 8 * r] for x, r in lefts] for t, b in tops]
        expected = torch.cat([torch.cat([interpolated(cell, 8) for cell in row], 1) for row in cells])
        assert (found[image].double() - expected).abs().max() <= (1e-3 if floats else 0.5 + 1e-3)


def bounds(numbers):
    """Cuts in the order in which they are taken."""
    return [1 + place for place in sorted(range(len(numbers)), key=numbers.__getitem__)]


def test_cells_tile_the_image_and_none_is_empty():
    starts, lengths = cells(torch.rand(1000, 6), 4, 32)
    assert (lengths >= 32).all()
    assert (lengths % 32 == 0).all()
    assert torch.equal(starts[:, 1:], (starts + lengths)[:, :-1])
    assert (starts[:, 0] == 0).all()
    assert ((starts + lengths)[:, -1] == 7 * 32).all()


def test_every_set_of_cuts_is_as_likely():
    starts, _ = cells(torch.rand(6000, 4), 3, 1)
    counts = (starts[:, 1] * 5 + starts[:, 2]).unique(return_counts=True)[1]
    assert len(counts) == 6  # two of four places
    assert (counts / 6000 - 1 / 6).abs().max() < 4 * math.sqrt(5 / 36 / 6000)


@pytest.mark.parametrize("same", [True, False])
def test_axes_are_cut_alike_only_where_asked(same):
    ramp = torch.arange(32.0).expand(16, 32, 32)
    images = torch.stack([ramp.mT, ramp, ramp], -1)
    found = merged(images, SEED, torch.arange(16), 4, 3, same_axes=same)
    assert torch.equal(found[:, :, 0, 0], found[:, 0, :, 1]) == same


def test_boxes_of_their_own_size_are_left_as_they_are():
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    spans = (torch.tensor([[0, 4]] * 2), torch.tensor([[4, 4]] * 2))
    assert torch.equal(resized(images, spans, spans, 4), images)
