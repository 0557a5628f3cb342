"""Views that are cut on the way are those of the two steps one after the other, to the bit, whoever makes them."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitkiln.kernels import augment_views, crop_views, use
from vitkiln.kernels._shared.native import native

from .test_augment_views import random_rows

BUILT = native("augment_views") and native("crop_views")
PROVIDERS = ["reference", "torch", pytest.param("native", marks=pytest.mark.skipif(not BUILT, reason="no C++"))]
SHAPES = [(30, 40), (90, 20), (1, 1), (64, 64), (3, 50), (20, 21)]  # columns first at some sizes


def pictures(shapes: list[tuple[int, int]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator) for shape in shapes]


def inner(images: Any, seed: int = 0) -> Tensor:
    """A box of fractions within each image."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(len(images), 2, 2, dtype=torch.float64, generator=generator).sort(1).values
    corners[:, 1] = corners[:, 1].maximum(corners[:, 0] + 0.01).clamp(max=1)
    corners[:, 0] = corners[:, 0].minimum(corners[:, 1] - 0.01)
    sides = torch.tensor([[image.shape[1], image.shape[0]] for image in images], dtype=torch.float64)
    return (corners * sides[:, None]).flatten(1)


def table(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(random_rows(count, seed))


def by(provider: str) -> Any:
    return nullcontext() if provider == "native" else use(provider, "augment_views", "crop_views")


def in_two_steps(images: Any, rows: Tensor, boxes: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    with use("reference", "augment_views", "crop_views"):
        return augment_views(crop_views(images, boxes, size, interpolation), rows)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 7, 32, 70])
def test_images_of_sizes_of_their_own(provider: str, interpolation: str, size: int) -> None:
    images = pictures() * 5
    boxes, rows = inner(images, size), table(len(images), size)
    with by(provider):
        found = augment_views(images, rows, boxes, size, interpolation)
    assert torch.equal(found, in_two_steps(images, rows, boxes, size, interpolation))


@pytest.mark.skipif(not BUILT, reason="nothing to compare")
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 50),
    st.integers(0, 999),
    st.sampled_from(["bilinear", "bicubic"]),
)
@settings(max_examples=100, deadline=None)
def test_any_sizes(height: int, width: int, size: int, seed: int, interpolation: str) -> None:
    images = pictures([(height, width)] * 3)
    boxes, rows = inner(images, seed), table(3, seed)
    expected = in_two_steps(images, rows, boxes, size, interpolation)
    assert torch.equal(augment_views(images, rows, boxes, size, interpolation), expected)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("batch", [True, False], ids=["a batch", "a list"])
def test_several_views_of_an_image(provider: str, batch: bool) -> None:
    images = torch.stack(pictures([(40, 30)] * 4))
    which = torch.tensor([3, 0, 0, 2, 3, 3])
    boxes, rows = inner(images[which]), table(6)
    listed = images if batch else list(images)
    with by(provider):
        found = augment_views(listed, rows, boxes, 16, which=which)
        named_again = augment_views([images[i] for i in which], rows, boxes, 16)
    expected = in_two_steps(images[which], rows, boxes, 16)
    assert torch.equal(found, expected)
    assert torch.equal(named_again, expected)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "view",
    [
        lambda images: images,
        lambda images: images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        lambda images: torch.nn.functional.pad(images, (0, 1), value=9)[..., :3],
        lambda images: torch.nn.functional.pad(images, (0, 0, 2, 2, 1, 3), value=9)[:, 1:-3, 2:-2],
        lambda images: images.repeat_interleave(2, 2)[:, :, ::2],
    ],
    ids=["as it is", "planes", "four bytes a pixel", "a window", "every second column"],
)
def test_strides_do_not_matter(provider: str, view: Any) -> None:
    images = torch.stack(pictures([(40, 30)] * 4))
    boxes, rows = inner(images), table(4)
    expected = in_two_steps(images, rows, boxes, 16)
    with by(provider):
        assert torch.equal(augment_views(view(images), rows, boxes, 16), expected)
        assert torch.equal(augment_views(list(view(images)), rows, boxes, 16), expected)


def test_strides_of_the_tables_do_not_matter() -> None:
    images, which = torch.stack(pictures([(40, 30)] * 4)), torch.tensor([0, 9, 3, 9, 1, 9, 2, 9])[::2]
    boxes, rows = inner(images), table(4)
    expected = in_two_steps(images[which], rows, boxes, 16)
    found = augment_views(images, rows.t().contiguous().t(), boxes.t().contiguous().t(), 16, which=which)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_matter(threads: int) -> None:
    images = pictures() * 7
    boxes, rows, before = inner(images), table(len(images)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = augment_views(images, rows, boxes, 20)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, in_two_steps(images, rows, boxes, 20))


def test_the_images_are_left_alone() -> None:
    images = pictures()
    before = [image.clone() for image in images]
    augment_views(images, table(6), inner(images), 16)
    assert all(torch.equal(*pair) for pair in zip(images, before, strict=True))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_boxes_of_many_images_give_no_views(provider: str) -> None:
    none = torch.empty(0, 4, dtype=torch.float64)
    with by(provider):
        of_a_list = augment_views(pictures(), table(0), none, 8, which=torch.empty(0, dtype=torch.int64))
        of_a_batch = augment_views(torch.empty(0, 5, 6, 3, dtype=torch.uint8), table(0), none, 8)
    assert (of_a_list.shape, of_a_list.dtype) == (of_a_batch.shape, of_a_batch.dtype) == ((0, 8, 8, 3), torch.uint8)


@pytest.mark.parametrize("implementation", ["reference", "torch", "native"])
@pytest.mark.parametrize("which", [None, torch.tensor([0, 5, 5])])
def test_registration(implementation: str, which: Tensor | None) -> None:
    images = pictures()[: 6 if which is not None else 3]
    boxes = inner([images[i] for i in (range(3) if which is None else which)])
    given = (images, which, boxes, 7, "bicubic", table(3), implementation)
    torch.library.opcheck(torch.ops.vitkiln.augment_boxes.default, given)


def test_compiles_without_a_break() -> None:
    images, which = torch.stack(pictures([(40, 30)] * 4)), torch.tensor([3, 0, 0, 2])
    boxes, rows = inner(images), table(4)

    def views(images: Any, rows: Tensor, boxes: Tensor, which: Tensor) -> Tensor:
        return augment_views(images, rows, boxes, 9, which=which)

    compiled = torch.compile(views, backend="aot_eager", fullgraph=True)
    expected = views(images, rows, boxes, which)
    assert torch.equal(compiled(images, rows, boxes, which), expected)
    assert torch.equal(compiled(list(images), rows, boxes, which), expected)


IMAGES, ROWS = torch.zeros(2, 4, 6, 3, dtype=torch.uint8), torch.zeros(2, 13)
BOXES = torch.tensor([[0, 0, 6, 4]] * 2, dtype=torch.float64)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, r"^size: None; must be 1 or more pixels, as there are boxes"),
        ({"size": 0}, r"^size: 0; must be 1 or more pixels"),
        ({"boxes": None}, r"^size: 2; must be None, as there are no boxes"),
        ({"boxes": None, "size": None, "which": torch.tensor([0, 1])}, r"^which: int64 \[2\] on cpu; must be None"),
        ({"boxes": None, "size": None, "interpolation": "bicubic"}, r"^interpolation: 'bicubic'; must be left out"),
        ({"boxes": None, "size": None, "images": [IMAGES[0]]}, r"^images: <class 'list'>; must be a tensor"),
        ({"boxes": BOXES[:1]}, r"^boxes: float64 \[1, 4\] on cpu; must be float64 \[2, 4\]"),
        ({"boxes": BOXES[0, 0]}, r"^boxes: float64 \[\] on cpu"),
        ({"boxes": BOXES.float()}, r"^boxes: float32 \[2, 4\]"),
        ({"images": IMAGES.float()}, r"^images: float32 \[2, 4, 6, 3\]"),
        ({"images": []}, r"^images: \[\]; must be a tensor, or one or more of them"),
        ({"images": [IMAGES[0]] * 3}, r"^boxes: float64 \[2, 4\] on cpu; must be float64 \[3, 4\]"),
        ({"images": [IMAGES[0], IMAGES]}, r"^images\[1\]: uint8 \[2, 4, 6, 3\]"),
        ({"parameters": ROWS[:1]}, r"^parameters: float32 \[1, 13\] on cpu; must be float32 \[2, 13\]"),
        ({"parameters": ROWS.to("meta")}, r"^parameters: .* on meta; must be on cpu, as images is"),
        ({"interpolation": "lanczos"}, r"^interpolation: 'lanczos'; must be one of bilinear, bicubic"),
        ({"which": torch.tensor([0, 1, 1])}, r"^boxes: float64 \[2, 4\] on cpu; must be float64 \[3, 4\]"),
        ({"which": torch.tensor([0.0, 1.0])}, r"^which: float32 \[2\] on cpu; must be int64 \[B\] on cpu"),
        ({"which": torch.tensor([[0], [1]])}, r"^which: int64 \[2, 1\]"),
        ({"which": torch.tensor([0, 1], device="meta")}, r"^which: int64 \[2\] on meta"),
        ({"which": torch.tensor([0, 2])}, r"^which\[1\]: 2; must be from 0 to 1, the number of an image"),
        ({"which": torch.tensor([-1, 0])}, r"^which\[0\]: -1; must be from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(provider: str, change: dict[str, Any], message: str) -> None:
    right = {"images": IMAGES, "parameters": ROWS, "boxes": BOXES, "size": 2}
    with by(provider), pytest.raises(ValueError, match=message):
        augment_views(**{**right, **change})


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("batch", [True, False], ids=["a batch", "a list"])
@pytest.mark.parametrize("box", [(-0.5, 0, 6, 4), (0, 0, 6.5, 4), (2, 0, 2, 4), (float("nan"), 0, 6, 4)])
def test_a_box_must_have_an_area_within_its_image(provider: str, batch: bool, box: tuple[float, ...]) -> None:
    boxes, images = torch.tensor([(0, 0, 6, 4), box], dtype=torch.float64), IMAGES if batch else list(IMAGES)
    message = r"^boxes\[1\]: \(.*\); must be 0 <= left < right <= 6, 0 <= top < bottom <= 4"
    with by(provider), pytest.raises(ValueError, match=message):
        augment_views(images, ROWS, boxes, 2, which=torch.tensor([0, 1]))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_box_is_held_against_the_image_that_it_is_of(provider: str) -> None:
    images, boxes = [IMAGES[0], IMAGES[1, :2]], BOXES[:1]
    with by(provider):
        augment_views(images, ROWS[:1], boxes, 2, which=torch.tensor([0]))
        with pytest.raises(ValueError, match=r"^boxes\[0\]: .* 0 <= top < bottom <= 2"):
            augment_views(images, ROWS[:1], boxes, 2, which=torch.tensor([1]))


# tiles and crops in shared memory, crops that lack room there, tiles that do
@pytest.mark.gpu
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [1, 7, 96, 224, 300])
@pytest.mark.parametrize("shapes", [[(375, 500), (500, 333), (1, 1), (1, 700)], [(375, 500), (3000, 6000), (8000, 90)]])
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_gpu_makes_the_same_views(interpolation: str, size: int, shapes: Any, place: str) -> None:
    images = pictures(shapes)
    which = torch.arange(300) % len(images)
    boxes, rows = inner([images[i] for i in which]), table(300)
    boxes[: len(images)] = torch.tensor([[0, 0, w, h] for h, w in shapes], dtype=torch.float64)
    expected = augment_views(images, rows, boxes, size, interpolation, which)
    there = [image.cuda() for image in images]
    found = augment_views(there, rows.cuda(), boxes.to(place), size, interpolation, which)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for() -> None:
    images, which = torch.stack(pictures([(40, 30)] * 4)).cuda(), torch.tensor([3, 0, 0, 2])
    boxes, rows = inner(images), table(4).cuda()
    augment_views(images, rows, boxes, 9, which=which)  # builds
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment_views(images, rows, boxes, 9, which=which)
        augment_views(images, rows, boxes.to("cuda", non_blocking=True), 9)
    finally:
        torch.cuda.set_sync_debug_mode("default")
