"""What a block of a GPU does with a picture of which it cuts a view, done by one thread of a CPU taking all turns."""

import ctypes
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .test_augment_views_block import compiled
from .test_augment_views_boxes import in_two_steps, inner, pictures, table

BLOCK = """
#include "augment_views/from_crops.h"
#include "augment_views/view.h"

constexpr unsigned kGuard = 0xcdcdcdcd;

struct {
  views::Tile tile;
  unsigned char *memory, *slice;
  views::Crops crops;
  const float* parameters;
  unsigned char* out;
  int64_t view;
  int ended;
} job;

template <bool kPooled>
void work() {
  views::FromCrops<kPooled> fill{job.crops, job.memory + views::Layout::kHead, job.slice};
  views::augment(job.tile, *reinterpret_cast<views::Workspace*>(job.memory), fill, job.view, job.parameters, job.out);
}

void body() {
  job.slice ? work<true>() : work<false>();
  ++job.ended;
  swapcontext(&turns[threadIdx.x], &home);
}

struct Memory {  // and one word behind it that nobody may change
  std::vector<unsigned> words;
  explicit Memory(int64_t bytes) : words(bytes / 4 + 1, 0xabababab) { words.back() = kGuard; }
  unsigned char* get() { return reinterpret_cast<unsigned char*>(words.data()); }
  bool whole() const { return words.back() == kGuard; }
};

// Bytes for a crop: `more` than the largest needs, or, if less is allowed, no more than the blur has for its halos.
extern "C" int augment(const crop::Picture* pictures, const double* boxes, const float* parameters, int64_t count,
                       int size, int kind, bool shared, bool pooled, int64_t more, bool backwards, unsigned char* out) {
  const auto filter = static_cast<crop::Filter>(kind);
  int64_t need = 0;
  for (int64_t i = 0; i < count; ++i) {
    crop::Need one;
    one.add(pictures[i], size, filter);
    need = std::max(need, one.bytes(size));
  }
  const int64_t least = sizeof(views::Workspace) - views::Layout::kHead;
  const views::Layout layout{pooled ? least : std::max(least, need + more)};
  const int64_t tile = views::Tile::bytes(size, size);
  Memory memory(layout.tile() + (shared ? tile : 0)), elsewhere(tile), slice(need);
  unsigned char* pixels = shared ? memory.get() + layout.tile() : elsewhere.get();
  const views::Crops crops{pictures, reinterpret_cast<const crop::Box*>(boxes), count, size, filter, layout.room, need};
  job = {{pixels, size, size}, memory.get(), pooled ? slice.get() : nullptr, crops, parameters, out, 0, 0};
  for (; job.view < count; ++job.view)
    if (!run_block(backwards, job.ended)) return 1;
  return memory.whole() && elsewhere.whole() && slice.whole() ? 0 : 2;
}
"""
Run = Callable[..., Tensor]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not found")


class Picture(ctypes.Structure):
    """As csrc/crop.h has it."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("row", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
    )


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """images, parameters, boxes, size, filter, where what lies, and whether the last thread goes first -> the views"""
    function = compiled(tmp_path_factory.mktemp("block"), BLOCK).augment
    long, flag, pointer = ctypes.c_int64, ctypes.c_bool, ctypes.c_void_p
    function.argtypes = [pointer, pointer, pointer, long, ctypes.c_int, ctypes.c_int, flag, flag, long, flag, pointer]

    def run(
        images: list[Tensor],
        rows: Tensor,
        boxes: Tensor,
        size: int,
        kind: int = 0,
        shared: bool = True,
        pooled: bool = False,
        more: int = 0,
        backwards: bool = False,
    ) -> Tensor:
        out = torch.zeros(len(images), size, size, 3, dtype=torch.uint8)
        listed = (Picture * len(images))(
            *[Picture(i.data_ptr(), i.stride(0), i.stride(1), i.shape[0], i.shape[1]) for i in images]
        )
        given = (ctypes.addressof(listed), boxes.data_ptr(), rows.data_ptr(), len(images), size, kind)
        status = function(*given, shared, pooled, more, backwards, out.data_ptr())
        assert status != 1, "some threads met more often than others"
        assert status != 2, "memory behind the block's own was changed"
        return out

    return run


SHAPES = [(60, 50), (130, 20), (1, 1), (20, 150), (41, 40), (9, 90)]


@pytest.mark.parametrize("backwards", [False, True], ids=["first thread first", "last thread first"])
@pytest.mark.parametrize(
    ("shared", "pooled", "more"),
    [(True, False, 0), (True, False, 4000), (True, True, 0), (False, False, 0), (False, True, 0)],
    ids=["shared memory", "more of it", "crops elsewhere", "tiles elsewhere", "all elsewhere"],
)
@pytest.mark.parametrize("size", [1, 33, 40])
@pytest.mark.parametrize("kind", [0, 1], ids=["bilinear", "bicubic"])
def test_a_block_makes_the_same_bits(
    block: Run, kind: int, size: int, shared: bool, pooled: bool, more: int, backwards: bool
) -> None:
    images = pictures(SHAPES) * 2
    boxes, rows = inner(images, size), table(len(images), size)
    boxes[: len(SHAPES)] = torch.tensor([[0, 0, width, height] for height, width in SHAPES], dtype=torch.float64)
    expected = in_two_steps(images, rows, boxes, size, ("bilinear", "bicubic")[kind])
    assert torch.equal(block(images, rows, boxes, size, kind, shared, pooled, more, backwards), expected)


@pytest.mark.parametrize("side", [20, 61, 97, 300])
def test_many_boxes_of_one_picture(block: Run, side: int) -> None:
    images = pictures([(side, 2 * side)]) * 40
    boxes, rows = inner(images, side), table(40, side)
    assert torch.equal(block(images, rows, boxes, 24), in_two_steps(images, rows, boxes, 24))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    "box", [[float("nan")] * 4, [-1e300, -5, 1e300, float("inf")], [15, 20, 3, 2], [1e9, 1e9, 2e9, 2e9], [5, 5, 5, 5]]
)
def test_a_box_that_is_none_reads_no_other_memory(block: Run, pooled: bool, box: list[float]) -> None:
    images = [torch.full((*shape, 3), 7, dtype=torch.uint8) for shape in ((30, 50), (90, 20))]
    rows = table(1).new_zeros(2, 13)
    rows[:, -1] = 256
    boxes = torch.tensor([box] * 2, dtype=torch.float64)
    assert (block(images, rows, boxes, 8, 1, pooled=pooled) == 7).all()
