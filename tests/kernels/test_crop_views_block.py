"""What a block of a GPU does with a crop, done by threads of a CPU that meet where the block would."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from vitkiln.kernels import use
from vitkiln.kernels.crop_views import crop_views

CSRC = Path(__file__).parents[2] / "csrc"
INTERPOLATIONS = ("bilinear", "bicubic")
BLOCK = """
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#define __CUDACC__
#define __host__
#define __device__
#define __forceinline__ inline
using std::fmax, std::fmin, std::max, std::min;

constexpr unsigned kThreads = 64;
struct Index { unsigned x; };
thread_local Index threadIdx;
const Index blockDim{kThreads};

struct Meeting {
  std::mutex lock;
  std::condition_variable over;
  unsigned there = 0, round = 0;

  void wait() {
    std::unique_lock held(lock);
    const unsigned mine = round;
    if (++there == kThreads) return ++round, there = 0, over.notify_all();
    over.wait(held, [&] { return round != mine; });
  }
} meeting;
void __syncthreads() { meeting.wait(); }

#include "crop_into.h"

extern "C" void cut(const uint8_t* pixels, int64_t row, int64_t step, int height, int width, const double* box,
                    int size, int kind, int64_t more, uint8_t* out) {
  const crop::Picture picture{pixels, row, step, height, width};
  const auto filter = static_cast<crop::Filter>(kind);
  crop::Need need;
  need.add(picture, size, filter);
  need.lines += more;
  std::vector<uint32_t> scratch(need.bytes(size) / 4);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      threadIdx.x = i;
      crop::crop_into(picture, {box[0], box[1], box[2], box[3]}, size, filter, need,
                      reinterpret_cast<uint8_t*>(scratch.data()), crop::Rows{out, 3 * size});
    });
  for (auto& thread : threads) thread.join();
}
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not found")


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """image, box, size, number of the filter, bytes more than needed -> the crop"""
    folder = tmp_path_factory.mktemp("block")
    (folder / "block.cpp").write_text(BLOCK)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fsanitize=undefined", "-fno-sanitize-recover", "-pthread"]
    command = ["g++", *flags, f"-I{CSRC}", "-shared", "-fPIC", folder / "block.cpp", "-o", folder / "block.so"]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(folder / "block.so")).cut
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [pointer, long, long, *[ctypes.c_int] * 2, pointer, *[ctypes.c_int] * 2, long, pointer]

    def cut(image, box, size, kind, more):
        out, sides = torch.zeros(size, size, 3, dtype=torch.uint8), torch.tensor(box, dtype=torch.float64)
        lies = (image.data_ptr(), image.stride(0), image.stride(1), *image.shape[:2])
        function(*lies, sides.data_ptr(), size, kind, more, out.data_ptr())
        return out

    return cut


@pytest.mark.parametrize("more", [0, 500])
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    ("height", "width", "box", "size"),
    [
        (60, 50, (0, 0, 50, 60), 40),
        (60, 50, (3.5, 10.25, 9, 50), 33),
        (60, 150, (0, 0, 150, 60), 7),
        (130, 20, (0.5, 1, 19, 130), 31),  # columns first
        (1, 1, (0, 0, 1, 1), 5),
        (90, 64, (0, 0, 64, 90), 1),
    ],
)
def test_a_block_cuts_the_same_bits(block, height, width, box, size, kind, more):
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    boxes = torch.tensor([box], dtype=torch.float64)
    with use("reference", "crop_views"):
        expected = crop_views([image], boxes, size, INTERPOLATIONS[kind])[0]
    assert torch.equal(block(image, box, size, kind, more), expected)


@pytest.mark.parametrize("shape", [(30, 50), (90, 20)], ids=["rows first", "columns first"])
@pytest.mark.parametrize(
    "box",
    [
        [float("nan")] * 4,
        [-1e300, -5, 1e300, float("inf")],
        [15, 20, 3, 2],
        [1e9, 1e9, 2e9, 2e9],
        [5, 5, 5, 5],
    ],
)
def test_a_box_that_is_none_reads_no_other_memory(block, shape, box):
    image = torch.full((*shape, 3), 7, dtype=torch.uint8)
    assert (block(image, box, 8, 1, 0) == 7).all()
