"""Boxes at one size: equal to Pillow to the bit, whoever computes them, whatever they lie in."""

from typing import Any, NamedTuple

import numpy as np
import PIL
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels._shared.native import native
from vitkiln.kernels.crop_views import crop_views
from vitkiln.kernels.crop_views.reference import columns_first

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
EARLIER = int(PIL.__version__.split(".")[0]) < 13  # resizes rows first, always
PROVIDERS = ["reference", pytest.param("native", marks=pytest.mark.skipif(not native("crop_views"), reason="no C++"))]


class Crop(NamedTuple):
    """A picture, and what is to become of it."""

    height: int
    width: int
    box: tuple[float, float, float, float]
    size: int
    interpolation: str

    def picture(self) -> Tensor:
        """Whose values are extreme for the most part, so that a cubic filter overshoots."""
        noise = torch.randn(self.height, self.width, 3, generator=torch.Generator().manual_seed(self.height))
        return (noise * 400 + 128).clamp(0, 255).byte()

    def boxes(self) -> Tensor:
        return torch.tensor([self.box], dtype=torch.float64)

    def comparable(self) -> bool:
        return not (EARLIER and columns_first(self.height, self.width, self.size))


@st.composite
def crops(draw: Any) -> Crop:
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 50))
    left, right = sorted(draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    top, bottom = sorted(draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    box = (left, top, max(right, np.nextafter(left, 99)), max(bottom, np.nextafter(top, 99)))
    if box[2] > width or box[3] > height:
        box = (0.0, 0.0, float(width), float(height))
    return Crop(height, width, box, draw(st.sampled_from([1, 7, 32, 96])), draw(st.sampled_from(list(FILTERS))))


def by_pillow(crop: Crop) -> Tensor:
    picture = Image.fromarray(crop.picture().numpy())
    resized = picture.resize((crop.size, crop.size), FILTERS[crop.interpolation], box=crop.box)
    return torch.from_numpy(np.array(resized))


def by(provider: str, crop: Crop) -> Tensor:
    arguments = ([crop.picture()], crop.boxes(), crop.size, crop.interpolation)
    if provider == "native":
        return crop_views(*arguments)[0]
    with use("reference", "crop_views"):
        return crop_views(*arguments)[0]


@given(crops())
@settings(max_examples=150)
@example(Crop(1, 1, (0.25, 0.5, 0.75, 1.0), 7, "bicubic"))
@example(Crop(70, 3, (0.0, 0.0, 3.0, 70.0), 7, "bicubic"))
def test_the_reference_equals_pillow(crop):
    assert not crop.comparable() or torch.equal(by("reference", crop), by_pillow(crop))


@pytest.mark.skipif(not native("crop_views"), reason="nothing to compare")
@given(crops())
@settings(max_examples=300)
@example(Crop(1, 1, (0.25, 0.5, 0.75, 1.0), 7, "bicubic"))
@example(Crop(70, 3, (0.0, 0.0, 3.0, 70.0), 7, "bicubic"))
def test_native_code_equals_the_reference(crop):
    assert torch.equal(by("native", crop), by("reference", crop))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [1, 7, 96, 224])
@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (375, 500, (0, 0, 500, 375)),
        (375, 500, (401.25, 300.5, 500, 375)),
        (375, 500, (0, 0.125, 0.5, 375)),
        (500, 333, (20, 30, 300, 400)),  # columns first at every size
        (224, 224, (0, 0, 224, 224)),
        (96, 96, (1, 1, 95, 95)),
        (2, 3, (0, 0, 3, 2)),
        (1, 1, (0, 0, 1, 1)),
        (1, 700, (0.1, 0, 700, 1)),
        (700, 1, (0, 0.1, 1, 700)),
    ],
)
def test_crops_equal_pillow(provider, interpolation, size, height, width, box):
    crop = Crop(height, width, box, size, interpolation)
    if not crop.comparable():
        pytest.skip("this Pillow resizes rows first")
    assert torch.equal(by(provider, crop), by_pillow(crop))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_whole_picture_of_that_size_stays_as_it_is(provider, interpolation):
    crop = Crop(33, 33, (0, 0, 33, 33), 33, interpolation)
    assert torch.equal(by(provider, crop), crop.picture())


def some(count: int = 3, height: int = 20, width: int = 30) -> tuple[Tensor, Tensor]:
    corners = torch.rand(count, 2, dtype=torch.float64) * 10
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)
    return images, torch.cat([corners, corners + 1 + 9 * torch.rand(count, 2, dtype=torch.float64)], 1)


def test_a_batch_is_its_images():
    images, boxes = some()
    expected = torch.cat([crop_views([image], box[None], 8) for image, box in zip(images, boxes, strict=True)])
    assert torch.equal(crop_views(images, boxes, 8), expected)
    assert torch.equal(crop_views(tuple(images), boxes, 8), expected)


def test_images_of_a_call_have_sizes_of_their_own():
    shapes = [(5, 9), (40, 3), (17, 17)]
    given = [Crop(height, width, (0, 0.5, width, height), 7, "bicubic") for height, width in shapes]
    found = crop_views([crop.picture() for crop in given], torch.cat([crop.boxes() for crop in given]), 7, "bicubic")
    assert torch.equal(found, torch.stack([by("reference", crop) for crop in given]))


@pytest.mark.parametrize(
    "view",
    [
        lambda images: images.transpose(1, 2).contiguous().transpose(1, 2),
        lambda images: images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        lambda images: torch.nn.functional.pad(images, (0, 1), value=9)[..., :3],
        lambda images: images.repeat_interleave(2, 2)[:, :, ::2],
        lambda images: images.repeat_interleave(2, 1)[:, ::2],
        lambda images: torch.nn.functional.pad(images, (0, 0, 2, 2, 1, 3), value=9)[:, 1:-3, 2:-2],
    ],
    ids=["columns", "planes", "four bytes a pixel", "every second column", "every second row", "a window"],
)
@pytest.mark.parametrize("size", [4, 64])
def test_strides_do_not_matter(view, size):
    images, boxes = some()
    expected, strided = crop_views(images, boxes, size), view(images)
    assert strided.stride() != images.stride()
    assert torch.equal(crop_views(strided, boxes, size), expected)
    assert torch.equal(crop_views(list(strided), boxes, size), expected)


@pytest.mark.parametrize("shape", [(1, 30), (20, 1), (1, 1)])
def test_slices_of_one_row_or_column_are_read_where_they_lie(shape):
    images, _ = some()
    small = images[:, : shape[0], : shape[1]]
    boxes = torch.tensor([[0, 0, shape[1], shape[0]]] * 3, dtype=torch.float64)
    assert torch.equal(crop_views(small, boxes, 5), crop_views(small.clone(), boxes, 5))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_matter(threads):
    images, boxes = some(20)
    expected, before = crop_views(images, boxes, 8), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(crop_views(images, boxes, 8), expected)
    finally:
        torch.set_num_threads(before)


def test_an_empty_batch_gives_no_views():
    found = crop_views(torch.empty(0, 5, 6, 3, dtype=torch.uint8), torch.empty(0, 4, dtype=torch.float64), 8)
    assert (found.shape, found.dtype) == ((0, 8, 8, 3), torch.uint8)


@pytest.mark.parametrize("interpolation", FILTERS)
def test_registration(interpolation):
    images, boxes = some()
    for listed in ([images], list(images)):
        torch.library.opcheck(torch.ops.vitkiln.crop_views.default, (listed, boxes, 7, interpolation))


def test_compiles_without_a_break():
    images, boxes = some()
    compiled = torch.compile(lambda images, boxes: crop_views(images, boxes, 9), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(images, boxes), crop_views(images, boxes, 9))
    assert torch.equal(compiled(list(images), boxes), crop_views(images, boxes, 9))


IMAGES, BOXES = torch.zeros(2, 4, 6, 3, dtype=torch.uint8), torch.tensor([[0, 0, 6, 4]] * 2, dtype=torch.float64)


@pytest.mark.parametrize("provider", ["reference", "native"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.float()}, r"^images: float32 \[2, 4, 6, 3\] on cpu; must be uint8 \[B, H, W, 3\]"),
        ({"images": IMAGES[0]}, r"^images: uint8 \[4, 6, 3\]"),
        ({"images": IMAGES[..., :1]}, r"^images: "),
        ({"images": IMAGES[:, :0]}, r"^images: .* of 1 to 65535 pixels a side"),
        ({"images": torch.zeros(1, 1, 1, 3, dtype=torch.uint8).expand(2, 1, 65_536, 3)}, r"^images: "),
        ({"images": []}, r"^images: \[\]; must be a tensor, or one or more of them"),
        ({"images": [IMAGES[0], IMAGES]}, r"^images\[1\]: uint8 \[2, 4, 6, 3\] on cpu; must be uint8 \[H, W, 3\]"),
        ({"images": [IMAGES[0], IMAGES[0].to("meta")]}, r"^images\[1\]: .* on meta; must be on cpu, as images\[0\] is"),
        ({"boxes": BOXES.float()}, r"^boxes: float32 \[2, 4\] on cpu; must be float64 \[2, 4\]"),
        ({"boxes": BOXES[:1]}, r"^boxes: float64 \[1, 4\]"),
        ({"boxes": BOXES.to("meta")}, r"^boxes: .* on meta; must be on cpu, as images are, or on a CPU"),
        ({"size": 0}, r"^size: 0; must be 1 or more pixels"),
        ({"interpolation": "Bicubic"}, r"^interpolation: 'Bicubic'; must be .*; did you mean 'bicubic'\?"),
        ({"interpolation": "lanczos"}, r"^interpolation: 'lanczos'; must be one of bilinear, bicubic"),
    ],
)
def test_bad_arguments_are_named(provider, change, message):
    right = {"images": IMAGES, "boxes": BOXES, "size": 2, "interpolation": "bilinear"}
    with pytest.raises(ValueError, match=message):
        call(provider, **{**right, **change})


@pytest.mark.parametrize("provider", ["reference", "native"])
@pytest.mark.parametrize(
    "box",
    [
        (-0.5, 0, 6, 4),
        (0, -1e-9, 6, 4),
        (0, 0, 6.5, 4),
        (0, 0, 6, 4.001),
        (2, 0, 2, 4),
        (0, 3, 6, 1),
        (float("nan"), 0, 6, 4),
        (0, 0, 6, float("inf")),
    ],
)
def test_a_box_must_have_an_area_within_its_image(provider, box):
    boxes = torch.tensor([(0, 0, 6, 4), box], dtype=torch.float64)
    message = r"^boxes\[1\]: \(.*\); must be 0 <= left < right <= 6, 0 <= top < bottom <= 4"
    for images in (IMAGES, list(IMAGES)):
        with pytest.raises(ValueError, match=message):
            call(provider, images=images, boxes=boxes, size=2)


def call(provider: str, **arguments: Any) -> Tensor:
    if provider == "native":
        return crop_views(**arguments)
    with use("reference", "crop_views"):
        return crop_views(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [1, 7, 96, 224])
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_gpu_crops_to_the_same_bits(interpolation, size, place):
    shapes = [(375, 500), (500, 333), (1, 1), (40, 50), (1, 700), (700, 1), (224, 224), (3000, 2000)]
    given = [Crop(height, width, (0.3, 0, width, height - 0.3), size, interpolation) for height, width in shapes]
    images, boxes = [crop.picture() for crop in given], torch.cat([crop.boxes() for crop in given])
    found = crop_views([image.cuda() for image in images], boxes.to(place), size, interpolation)
    assert torch.equal(found.cpu(), crop_views(images, boxes, size, interpolation))


@pytest.mark.gpu
@pytest.mark.parametrize(("height", "width"), [(30, 20_000), (20_000, 30)])
def test_a_gpu_crops_pictures_that_need_more_than_shared_memory(height, width):
    crop = Crop(height, width, (0, 0, width, height), 64, "bicubic")
    found = crop_views([crop.picture().cuda()] * 3, crop.boxes().repeat(3, 1), 64, "bicubic")
    assert torch.equal(found.cpu(), torch.stack([by("native", crop)] * 3))


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    images, boxes = some()
    images = images.cuda()
    crop_views(images, boxes, 8)  # builds
    torch.cuda.set_sync_debug_mode("error")
    try:
        crop_views(images, boxes, 8)
        crop_views(images, boxes.to("cuda", non_blocking=True), 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
