"""What a block of a GPU does with a view, done by one thread of a CPU that takes the turns of all of them."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vitkiln.kernels import use
from vitkiln.kernels.augment_views import augment_views

from .test_augment_views import random_rows

CSRC = Path(__file__).parents[2] / "csrc"
PIPELINE = """
#include <cstring>
inline void __pipeline_memcpy_async(void* to, const void* from, size_t count) { std::memcpy(to, from, count); }
inline void __pipeline_commit() {}
inline void __pipeline_wait_prior(int) {}
"""
MACHINE = """
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#define __CUDACC__
#define __CUDA_ARCH__ 900
#define __host__
#define __device__
#define __forceinline__ inline
using std::fmax, std::fmin, std::max, std::min;

constexpr int kCount = 512;
struct Index { unsigned x; } threadIdx;
const Index blockDim{kCount};
ucontext_t home, turns[kCount];
unsigned long long shown[kCount];
void __syncthreads() { swapcontext(&turns[threadIdx.x], &home); }

unsigned long long __shfl_down_sync(unsigned, unsigned long long value, int step) {
  const unsigned me = threadIdx.x;
  shown[me] = value;
  __syncthreads();
  value = me % 32 + step < 32 ? shown[me + step] : value;
  __syncthreads();
  return value;
}

template <typename To, typename From>
To same_bits(From from) { To to; std::memcpy(&to, &from, sizeof to); return to; }
float __int_as_float(int bits) { return same_bits<float>(bits); }
int __float_as_int(float number) { return same_bits<int>(number); }
float __fadd_rz(float a, float b) {  // of positive numbers
  const double exact = static_cast<double>(a) + b;
  const float near = static_cast<float>(exact);
  return near > exact ? std::nextafter(near, 0.0f) : near;
}
float __fdividef(float a, float b) { return std::nextafter(a / b, 0.0f); }
unsigned __vcmpgeu4(unsigned a, unsigned b) {
  unsigned found = 0;
  for (int i = 0; i < 32; i += 8) found |= (a >> i & 255) >= (b >> i & 255) ? 255u << i : 0;
  return found;
}

void body();

// Every thread's turns; whether the threads met as often as one another.
bool run_block(bool backwards, int& ended) {
  static std::vector<char> stacks(kCount << 16);
  ended = 0;
  for (int i = 0; i < kCount; ++i) {
    getcontext(&turns[i]);
    turns[i].uc_stack.ss_sp = &stacks[i << 16];
    turns[i].uc_stack.ss_size = 1 << 16;
    makecontext(&turns[i], body, 0);
  }
  while (ended == 0)
    for (int i = 0; i < kCount; ++i) {
      threadIdx.x = backwards ? kCount - 1 - i : i;
      swapcontext(&home, &turns[threadIdx.x]);
    }
  return ended == kCount;
}
"""
BLOCK = """
#include "augment_views/view.h"

struct {
  views::Tile tile;
  views::Workspace* space;
  const unsigned char* images;
  const float* parameters;
  unsigned char* out;
  bool shared;
  int64_t view;
  int ended;
} job;

void body() {
  if (job.shared)
    views::augment(job.tile, *job.space, views::FromImages<true>{job.images}, job.view, job.parameters, job.out);
  else
    views::augment(job.tile, *job.space, views::FromImages<false>{job.images}, job.view, job.parameters, job.out);
  ++job.ended;
  swapcontext(&turns[threadIdx.x], &home);
}

// Whether the threads met as often as one another.
extern "C" bool augment(const unsigned char* images, const float* parameters, int64_t count, int height, int width,
                        bool shared, bool backwards, unsigned char* out) {
  static views::Workspace space;
  std::vector<unsigned> words(views::Tile::bytes(height, width) / 4, 0xabababab);
  auto* pixels = reinterpret_cast<unsigned char*>(words.data());
  job = {{pixels, height, width}, &space, images, parameters, out, shared, 0, 0};
  for (; job.view < count; ++job.view)
    if (!run_block(backwards, job.ended)) return false;
  return true;
}
"""
Run = Callable[[Tensor, Tensor, bool, bool], Tensor]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not found")


def compiled(folder: Path, job: str) -> ctypes.CDLL:
    """What a block does, with the threads that do it."""
    (folder / "block.cpp").write_text(MACHINE + job)
    (folder / "cuda_pipeline.h").write_text(PIPELINE)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fsanitize=undefined", "-fno-sanitize-recover"]
    flags += [f"-I{CSRC}", f"-I{folder}", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, folder / "block.cpp", "-o", folder / "block.so"], check=True)
    return ctypes.CDLL(str(folder / "block.so"))


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """images, parameters, whether in shared memory, whether the last thread goes first -> the views"""
    function = compiled(tmp_path_factory.mktemp("block"), BLOCK).augment
    integer, pointer, flag = ctypes.c_int, ctypes.c_void_p, ctypes.c_bool
    function.argtypes = [pointer, pointer, ctypes.c_int64, integer, integer, flag, flag, pointer]
    function.restype = flag

    def run(images: Tensor, table: Tensor, shared: bool, backwards: bool) -> Tensor:
        out = torch.zeros_like(images)
        count, height, width, _ = images.shape
        given = (images.data_ptr(), table.data_ptr(), count, height, width)
        assert function(*given, shared, backwards, out.data_ptr()), "some threads met more often than others"
        return out

    return run


@pytest.mark.parametrize("backwards", [False, True], ids=["first thread first", "last thread first"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "global memory"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 3), (12, 8), (33, 17), (90, 47), (20, 140)])
def test_a_block_makes_the_same_bits(block: Run, size: tuple[int, int], shared: bool, backwards: bool) -> None:
    images = torch.randint(0, 256, (24, *size, 3), dtype=torch.uint8)
    table = torch.from_numpy(random_rows(24, seed=size[0]))
    with use("reference", "augment_views"):
        expected = augment_views(images, table)
    assert torch.equal(block(images, table, shared, backwards), expected)


def test_a_block_reads_images_that_do_not_start_at_a_word(block: Run) -> None:
    images, table = torch.randint(0, 256, (1 + 8 * 12 * 8 * 3,), dtype=torch.uint8), torch.from_numpy(random_rows(8))
    moved = images[1:].view(8, 12, 8, 3)
    assert torch.equal(block(moved, table, True, False), augment_views(moved, table))
