"""Native code makes the same pictures as the reference to the bit, whatever the rows, the sizes and the threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from vitkiln import kernels
from vitkiln.kernels import augment_views
from vitkiln.kernels._shared.native import native
from vitkiln.kernels.augment_views import columns
from vitkiln.kernels.augment_views.colour import hsv

from .test_augment_views import random_rows, rows

pytestmark = pytest.mark.skipif(not native("augment_views"), reason="nothing to compare")

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (33, 17), (31, 33), (32, 32), (6, 343)]  # around 1,024 pixels too
LEVELS = {"noise": 1, "two levels": 255, "few levels": 51}


def images(count: int, height: int, width: int, step: int = 1) -> Tensor:
    """Random multiples of a step; the first image is black and the second white."""
    generator = torch.Generator().manual_seed(0)
    made = step * torch.randint(255 // step + 1, (count, height, width, 3), generator=generator, dtype=torch.uint8)
    made[0], made[1 % count] = 0, 255
    return made


def by(implementation: str, pixels: Tensor, table: np.ndarray) -> Tensor:
    with kernels.use(implementation, "augment_views"):
        return augment_views(pixels, torch.from_numpy(table))


def same(pixels: Tensor, table: np.ndarray) -> None:
    made, expected = augment_views(pixels, torch.from_numpy(table)), by("torch", pixels, table)
    wrong = (made != expected).flatten(1).any(1).nonzero().flatten().tolist()
    assert not wrong, table[wrong[0]]


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", LEVELS.values(), ids=LEVELS)
def test_random_rows(size: tuple[int, int], step: int) -> None:
    same(images(120, *size, step), random_rows(120, seed=sum(size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", LEVELS.values(), ids=LEVELS)
def test_any_blur(size: tuple[int, int], step: int) -> None:
    turning = np.nextafter(np.float32(2**0.5), [0, 1, 2]).tolist()  # from one pixel in reach to two
    sigmas = [1e-6, *np.linspace(0.1, columns.LARGEST_SIGMA, 37), *turning]
    same(images(len(sigmas), *size, step), rows(len(sigmas), SIGMA=sigmas))


@pytest.mark.parametrize("place", range(3))
def test_factors_at_their_ends(place: int) -> None:
    factors = [0, 1e-7, 0.5, np.nextafter(np.float32(1), 0), 1, np.nextafter(np.float32(1), 2), 2, 17, 1e30]
    table = rows(len(factors), JITTER=1)
    table[:, columns.FACTORS.start + place] = factors
    same(images(len(factors), 23, 29), table)


def test_thresholds_between_levels_and_beyond_them() -> None:
    thresholds = [-3, 0, 0.5, 1, 127.5, 128, 254.5, 255, 255.5, 256, 1000]
    same(images(len(thresholds), 23, 29), rows(len(thresholds), THRESHOLD=thresholds))


def test_a_mean_halfway_between_levels_is_rounded_up() -> None:
    pixels = torch.tensor([0, 0, 0, 1, 1, 1], dtype=torch.uint8).view(1, 1, 2, 3)
    table = rows(1, JITTER=1)
    table[:, columns.FACTORS.start + 1] = 0
    assert augment_views(pixels, torch.from_numpy(table)).unique().tolist() == [1]
    same(pixels, table)


def test_any_number_of_threads(threads: int) -> None:
    pixels, table = images(41, 19, 21), random_rows(41)
    same(pixels, table)


def test_no_images() -> None:
    assert augment_views(torch.empty(0, 4, 4, 3, dtype=torch.uint8), torch.empty(0, 13)).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("hue", [0.001, 0.1, -0.37])
@pytest.mark.slow
def test_all_colours_are_turned_as_the_reference_turns_them(hue: float) -> None:
    green, blue = torch.meshgrid(*[torch.arange(256, dtype=torch.uint8)] * 2, indexing="ij")
    for red in range(0, 256, 8):
        some = torch.arange(red, red + 8, dtype=torch.uint8)[:, None, None].expand(8, 256, 256)
        pixels = torch.stack([some, green.expand(8, 256, 256), blue.expand(8, 256, 256)], -1)
        same(pixels, rows(8, JITTER=1, HUE=hue))


@pytest.mark.slow
def test_every_saturation_and_value_is_turned_to_every_hue() -> None:
    """Together with the test above: hue, saturation and value of every colour, and the colour of all of those."""
    value, low = torch.meshgrid(*[torch.arange(256, dtype=torch.uint8)] * 2, indexing="ij")
    pixels = torch.stack([value, torch.minimum(value, low), torch.minimum(value, low)], -1)[None]
    _, saturation, found = hsv(pixels.permute(0, 3, 1, 2))
    assert len(torch.unique(saturation * 256 + found)) == _kinds()
    for shift in range(256):
        same(pixels, rows(1, JITTER=1, HUE=(shift + 0.5) / 255))


def _kinds() -> int:
    """Pairs of saturation and value that colours have."""
    return len({(int(255 * spread / high) if high else 0, high) for high in range(256) for spread in range(high + 1)})


@pytest.mark.gpu
@pytest.mark.parametrize("size", [*SIZES, (224, 224), (225, 223), (281, 300)])  # the last in global memory, in turns
def test_a_gpu_makes_the_same_pictures_without_waiting(size: tuple[int, int]) -> None:
    pixels, table = images(300, *size), random_rows(300)
    expected = augment_views(pixels, torch.from_numpy(table))
    there = pixels.cuda(), torch.from_numpy(table).cuda()
    augment_views(*there)  # builds
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = augment_views(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(made.cpu(), expected)


@pytest.mark.gpu
def test_a_gpu_reads_images_that_do_not_start_at_a_word() -> None:
    pixels, table = images(30, 12, 13), random_rows(30)
    moved = pixels.cuda()[1:]
    assert torch.equal(augment_views(moved, torch.from_numpy(table[1:]).cuda()).cpu(), by("torch", pixels, table)[1:])
