// RandAugment of pictures on a GPU: a block of threads takes one through all its operations, from buffer to buffer.
//
// Every operation reads one buffer and writes another: the images first, then by turns a draft and the result, so that
// the last writes the result. What the block wrote it reads again after a barrier, so no pointer is `__restrict__`.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "formulas.h"
#include "pixels.h"

namespace {

using torch::stable::Tensor;
using namespace rand_augment;

constexpr int kWarp = 32, kCopies = 8;  // of a histogram, so that equal pixels seldom wait
constexpr unsigned kAll = 0xffffffffu;

struct Shared {
  unsigned count[3 * 256 * kCopies];
  unsigned char table[3][256];
  unsigned long long total;
};

// How often each channel has each value, in shared memory.
__device__ void count_values(const Frame& frame, Shared& shared) {
  for (int i = threadIdx.x; i < 3 * 256 * kCopies; i += kThreads) shared.count[i] = 0;
  __syncthreads();
  const int copy = threadIdx.x % kCopies;
  frame.visit([&](Pixel p) {
    atomicAdd(shared.count + p.red * kCopies + copy, 1u);
    atomicAdd(shared.count + (256 + p.green) * kCopies + copy, 1u);
    atomicAdd(shared.count + (512 + p.blue) * kCopies + copy, 1u);
  });
  __syncthreads();
}

__device__ unsigned counted(const Shared& shared, int channel, int value) {
  unsigned sum = 0;
#pragma unroll
  for (int copy = 0; copy < kCopies; ++copy) sum += shared.count[(channel * 256 + value) * kCopies + copy];
  return sum;
}

// The new value of each value of each channel: a warp has a channel, a thread eight values.
__device__ void tabulate(bool equalizes, unsigned pixels, Shared& shared) {
  constexpr int kValues = 256 / kWarp;
  const int channel = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (channel < 3) {
    const int first = lane * kValues;
    unsigned here = 0, low = 255, high = 0;
#pragma unroll 1
    for (unsigned value = first; value < first + kValues; ++value) {
      const unsigned own = counted(shared, channel, value);
      here += own;
      if (own) low = min(low, value), high = max(high, value);
    }
    low = __reduce_min_sync(kAll, low);
    high = __reduce_max_sync(kAll, high);
    unsigned below = here;
    for (int step = 1; step < kWarp; step *= 2) {
      const unsigned before = __shfl_up_sync(kAll, below, step);
      if (lane >= step) below += before;
    }
    below -= here;
    const unsigned step = (pixels - counted(shared, channel, high)) / 255;
#pragma unroll 1
    for (int value = first; value < first + kValues; ++value) {
      shared.table[channel][value] = equalizes ? flattened(value, below, step) : stretched(value, low, high);
      below += counted(shared, channel, value);
    }
  }
  __syncthreads();
}

__device__ void look_up(const Frame& frame, bool equalizes, Shared& shared) {
  count_values(frame, shared);
  tabulate(equalizes, frame.pixels, shared);
  frame.change([&](Pixel p) -> Pixel {
    return {shared.table[0][p.red], shared.table[1][p.green], shared.table[2][p.blue]};
  });
}

__device__ int mean_luma(const Frame& frame, Shared& shared) {
  if (threadIdx.x == 0) shared.total = 0;
  __syncthreads();
  unsigned long long sum = 0;
  frame.visit([&](Pixel p) { sum += luma(p.red, p.green, p.blue); });
  for (int step = kWarp / 2; step; step /= 2) sum += __shfl_down_sync(kAll, sum, step);
  if (threadIdx.x % kWarp == 0) atomicAdd(&shared.total, sum);
  __syncthreads();
  const unsigned long long count = frame.pixels;
  return static_cast<int>((2 * shared.total + count) / (2 * count));
}

__device__ void blend(const Frame& frame, int level, float factor) {
  frame.change([=](Pixel p) { return p.each([=](int v) -> int { return blended(level, v, factor); }); });
}

__device__ void color(const Frame& frame, float factor) {
  frame.change([=](Pixel p) {
    const int grey = luma(p.red, p.green, p.blue);
    return p.each([=](int v) -> int { return blended(grey, v, factor); });
  });
}

__device__ void sharpness(const Frame& frame, float factor) {
  frame.fill([&](int pixel) {
    const int x = pixel % frame.width, y = pixel / frame.width;
    const Pixel middle = frame.at(pixel);
    if (x == 0 || y == 0 || x + 1 == frame.width || y + 1 == frame.height) return middle;
    Pixel total = {4 * middle.red, 4 * middle.green, 4 * middle.blue};
#pragma unroll 1
    for (int row = -1; row <= 1; ++row)
      for (int column = -1; column <= 1; ++column) {
        const Pixel p = frame.at(pixel + row * frame.width + column);
        total.red += p.red, total.green += p.green, total.blue += p.blue;
      }
    return Pixel{blended(smooth(total.red), middle.red, factor), blended(smooth(total.green), middle.green, factor),
                 blended(smooth(total.blue), middle.blue, factor)};
  });
}

__device__ void flip(const Frame& frame, bool rows) {
  frame.fill([&](int pixel) {
    const int x = pixel % frame.width, y = pixel / frame.width;
    return frame.at(rows ? (frame.height - 1 - y) * frame.width + x
                           : y * frame.width + frame.width - 1 - x);
  });
}

// One channel at a place, given the taps along both axes; where a part is 0, those after the first count for nothing.
template <int kTaps>
__device__ int interpolated(const unsigned char* channel, const int (&rows)[kTaps], const int (&columns)[kTaps],
                            double down, double across) {
  constexpr int kFirst = kTaps / 2 - 1;
  double lines[kTaps];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) {
    if (down == 0.0 && j != kFirst) {
      lines[j] = 0.0;
      continue;
    }
    const unsigned char* row = channel + rows[j];
    double values[kTaps];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) values[i] = row[columns[i]];
    lines[j] = across == 0.0 ? values[kFirst] : between(values, across);
  }
  const double value = down == 0.0 ? lines[kFirst] : between(lines, down);
  return static_cast<int>(value < 0.0 ? 0.0 : value > 255.0 ? 255.0 : value);
}

template <int kTaps>
__device__ void move(const Frame& frame, const Map& map, uchar3 beyond) {
  frame.fill([&](int pixel) {
    const int x = pixel % frame.width, y = pixel / frame.width;
    const double across = map.across(x, y), down = map.down(x, y);
    const bool inside = across >= 0.0 && across < frame.width && down >= 0.0 && down < frame.height;
    if (!inside) return Pixel{beyond.x, beyond.y, beyond.z};
    const Before left(across), top(down);
    int rows[kTaps], columns[kTaps];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      rows[i] = 3 * frame.width * within(top.pixel + i - (kTaps / 2 - 1), frame.height);
      columns[i] = 3 * within(left.pixel + i - (kTaps / 2 - 1), frame.width);
    }
    unsigned found = 0;
#pragma unroll 1
    for (int channel = 0; channel < 3; ++channel)
      found |= interpolated(frame.from + channel, rows, columns, top.part, left.part) << 8 * channel;
    return Pixel{int(found & 255), int(found >> 8 & 255), int(found >> 16)};
  });
}

template <bool kCubic>
__device__ void one(const Frame& frame, const double* row, uchar3 beyond, Shared& shared) {
  const double number = row[1];
  const float factor = static_cast<float>(number);
  const int kind = kind_of(row[0]), bits = kept(number), from = first_inverted(number), more = whole(number, 255);
  switch (kind) {
    case kAutoContrast: return look_up(frame, false, shared);
    case kEqualize: return look_up(frame, true, shared);
    case kInvert: return frame.change([](Pixel p) { return p.each([](int v) { return 255 - v; }); });
    case kPosterize: return frame.change([=](Pixel p) { return p.each([=](int v) { return v & bits; }); });
    case kSolarize:
      return frame.change([=](Pixel p) { return p.each([=](int v) { return v < from ? v : 255 - v; }); });
    case kSolarizeAdd:
      return frame.change([=](Pixel p) { return p.each([=](int v) { return v < 128 ? min(255, v + more) : v; }); });
    case kColor: return color(frame, factor);
    case kContrast: return blend(frame, mean_luma(frame, shared), factor);
    case kBrightness: return blend(frame, 0, factor);
    case kSharpness: return sharpness(frame, factor);
    case kMirror: return flip(frame, false);
    case kUpsideDown: return flip(frame, true);
    default: return move<kCubic ? 4 : 2>(frame, Map(row + 1), beyond);
  }
}

template <bool kCubic>
__global__ void __launch_bounds__(kThreads, 2)
    augment(const unsigned char* images, const double* operations, int layers, int height, int width, uchar3 beyond,
            unsigned char* draft, unsigned char* out) {
  __shared__ Shared shared;
  const int pixels = height * width;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * pixels * 3;
  const double* rows = operations + static_cast<int64_t>(blockIdx.x) * layers * kColumns;
  int left = 0;
  for (int layer = 0; layer < layers; ++layer) left += kind_of(rows[layer * kColumns]) != kNone;
  Frame frame{images + start, nullptr, height, width, pixels, false};
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 4 == 0; };
  const bool words = aligned(images + start) && aligned(draft + start) && aligned(out + start);
  frame.words = words;
  if (left == 0) {
    frame.to = out + start;
    frame.change([](Pixel p) { return p; });
    return;
  }
  for (int layer = 0; layer < layers; ++layer) {
    const double* row = rows + layer * kColumns;
    if (kind_of(row[0]) == kNone) continue;
    frame.to = (left-- % 2 ? out : draft) + start;
    one<kCubic>(frame, row, beyond, shared);
    __syncthreads();
    frame.from = frame.to;
  }
}

Tensor layers(Tensor images, Tensor operations, int64_t red, int64_t green, int64_t blue, bool cubic,
              int64_t /*threads*/) {
  const torch::stable::accelerator::DeviceGuard guard(images.get_device_index());
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(images.get_device_index(), &stream));
  Tensor out = torch::stable::empty_like(images), draft = torch::stable::empty_like(images);
  const uchar3 beyond = make_uchar3(red, green, blue);
  const unsigned count = static_cast<unsigned>(images.size(0));
  if (count == 0) return out;
  (cubic ? augment<true> : augment<false>)<<<count, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const unsigned char*>(images.data_ptr()), static_cast<const double*>(operations.data_ptr()),
      static_cast<int>(operations.size(1)), static_cast<int>(images.size(1)), static_cast<int>(images.size(2)), beyond,
      static_cast<unsigned char*>(draft.data_ptr()), static_cast<unsigned char*>(out.data_ptr()));
  const cudaError_t status = cudaGetLastError();
  STD_TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CUDA, library) {
  library.impl("rand_augment_layers", TORCH_BOX(&layers));
}
