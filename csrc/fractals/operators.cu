// The fractal operators on a GPU: the same points, pixels and bits as on a CPU.
//
// An orbit is a serial chain in float64, so one thread follows each and leaves a point behind at every 1/kParts of its
// way. From there a block of kParts threads goes the way again, all parts at once, and marks pixels.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "../random.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using fractals::kBits;
using fractals::kMasks;
using fractals::kWordsOfBits;
using fractals::mask_of;
using fractals::Philox;

constexpr int kPad = 6, kDropped = 100, kParts = 128, kFollowers = 64, kHues = 128;
constexpr unsigned char kLit = 127;
enum Style { kPatchGray, kPatchColor, kPointGray, kPointColor };

__host__ __device__ bool gray(int style) { return style == kPatchGray || style == kPointGray; }
__host__ __device__ bool patches(int style) { return style == kPatchGray || style == kPatchColor; }

struct Formulas {
  const double *maps, *probabilities, *weights, *uniforms;
  int count, most, points;
};

// What is known of a path once it was followed.
struct Summary {
  double left, top, width, height;
  int kept;
};

// Coefficients and running sums of one formula in shared memory, the elements `stride` apart.
struct Table {
  double* at;
  int stride, most;

  __device__ void fill(const Formulas& f, int item) const {
    double sum = 0;
    for (int j = 0; j < most; ++j) {
      for (int k = 0; k < 6; ++k)
        at[(7 * j + k) * stride] = f.maps[(static_cast<int64_t>(item) * most + j) * 6 + k] * f.weights[item * 6 + k];
      at[(7 * j + 6) * stride] = sum += f.probabilities[static_cast<int64_t>(item) * most + j];
    }
  }

  __device__ void step(double u, double& x, double& y) const {
    int j = 0;
    while (j < most && u > at[(7 * j + 6) * stride]) ++j;
    const double* m = at + 7 * j * stride;
    const bool stays = j == most;  // rounding left no map
    const double a = stays ? 1 : m[0], b = stays ? 0 : m[stride], c = stays ? 0 : m[2 * stride];
    const double d = stays ? 1 : m[3 * stride], e = stays ? 0 : m[4 * stride], f = stays ? 0 : m[5 * stride];
    const double next = a * x + b * y + e;
    y = c * x + d * y + f;
    x = next;
  }
};

__host__ __device__ int part_length(int points) { return (points + kParts - 1) / kParts; }

// Where each part starts, and the extent of the points that are kept: of all, or of those up to a second time.
__global__ void __launch_bounds__(kFollowers)
    follow(Formulas f, double2* starts, Summary* summaries, bool* finite) {
  extern __shared__ double shared[];
  const int item = blockIdx.x * kFollowers + threadIdx.x;
  if (item >= f.count) return;
  const Table table{shared + threadIdx.x, kFollowers, f.most};
  table.fill(f, item);
  const int length = part_length(f.points);
  double x = 0, y = 0, left = 0, right = 0, top = 0, bottom = 0;
  int nan_x = f.points, nan_y = f.points;
  for (int i = 0; i < f.points; ++i) {
    if (i % length == 0) starts[static_cast<int64_t>(item) * kParts + i / length] = make_double2(x, y);
    if (isnan(x)) nan_x = min(nan_x, i);
    if (isnan(y)) nan_y = min(nan_y, i);
    left = fmin(left, x), right = fmax(right, x), top = fmin(top, y), bottom = fmax(bottom, y);
    if (i + 1 < f.points) table.step(f.uniforms[i], x, y);
  }
  finite[item] = isfinite(x) && isfinite(y);
  int kept = nan_x < f.points ? max(0, nan_x - kDropped) : f.points;
  kept = nan_y < kept ? max(0, nan_y - kDropped) : kept;
  if (kept < f.points) {
    x = y = left = right = top = bottom = 0;
    for (int i = 0; i < kept; ++i) {
      left = fmin(left, x), right = fmax(right, x), top = fmin(top, y), bottom = fmax(bottom, y);
      table.step(f.uniforms[i], x, y);
    }
  }
  summaries[item] = Summary{left, top, right - left, bottom - top, kept};
}

__device__ int cell(double value, double low, double extent, int size) {
  const double place = (value - low) / extent * static_cast<double>(size - 2 * kPad) + kPad;
  return isfinite(place) ? static_cast<int>(place) : 0;
}

// mark(point, pixel) for each point of the block's formula, from all threads; pixels are upside down.
template <typename Mark>
__device__ void again(const Formulas& f, const double2* starts, const Summary& s, int item, int size, const Table& table,
                      Mark mark) {
  const int length = part_length(f.points), begin = threadIdx.x * length, end = min(s.kept, begin + length);
  if (begin >= end) return;
  double2 start = starts[static_cast<int64_t>(item) * kParts + threadIdx.x];
  double x = start.x, y = start.y;
  for (int i = begin; i < end; ++i) {
    mark(i, (size - 1 - cell(y, s.top, s.height, size)) * size + cell(x, s.left, s.width, size));
    if (i + 1 < end) table.step(f.uniforms[i], x, y);
  }
}

// A bit for each pixel that holds a point, and how many do; `bits` starts as zeros.
__global__ void __launch_bounds__(kParts)
    mark_points(Formulas f, const double2* starts, const Summary* summaries, int size, int words, unsigned* bits) {
  extern __shared__ double shared[];
  const int item = blockIdx.x;
  const Table table{shared, 1, f.most};
  if (threadIdx.x == 0) table.fill(f, item);
  __syncthreads();
  unsigned* own = bits + static_cast<int64_t>(item) * words;
  again(f, starts, summaries[item], item, size, table, [&](int, int pixel) {
    const unsigned bit = 1u << (pixel & 31);
    if (!(own[pixel >> 5] & bit)) atomicOr(own + (pixel >> 5), bit);
  });
}

// For each pixel the last point that covers it: 16 * (point + 1) + the place in its patch, 0 where there is none.
__global__ void __launch_bounds__(kParts)
    mark_last(Formulas f, const double2* starts, const Summary* summaries, int size, int style, unsigned* last) {
  extern __shared__ double shared[];
  const int item = blockIdx.x;
  const Table table{shared, 1, f.most};
  if (threadIdx.x == 0) table.fill(f, item);
  __syncthreads();
  unsigned* own = last + static_cast<int64_t>(item) * size * size;
  const bool covers = patches(style);
  again(f, starts, summaries[item], item, size, table, [&](int point, int pixel) {
    const unsigned key = 16u * (point + 1);
    if (!covers) {
      atomicMax(own + pixel, key);
      return;
    }
    for (int place = 0; place < 9; ++place)
      atomicMax(own + pixel + 1 + place % 3 - (1 + place / 3) * size, key + place);
  });
}

__global__ void count_bits(const unsigned* bits, int words, long long* lit) {
  int here = 0;
  for (int i = threadIdx.x; i < words; i += blockDim.x) here += __popc(bits[static_cast<int64_t>(blockIdx.x) * words + i]);
  for (int step = 16; step; step /= 2) here += __shfl_down_sync(0xffffffffu, here, step);
  if (threadIdx.x % 32 == 0) atomicAdd(reinterpret_cast<unsigned long long*>(lit + blockIdx.x), (unsigned long long)here);
}

__device__ bool holds(const unsigned* bits, int pixel, int pixels) {
  return pixel < pixels && (bits[pixel >> 5] >> (pixel & 31) & 1);
}

// Packed bytes of the pixels that hold a point, or that the patch of one covers.
__global__ void pack(const unsigned* points, int size, int words, int style, int bytes, unsigned char* out) {
  const int byte = blockIdx.x * blockDim.x + threadIdx.x, item = blockIdx.y, pixels = size * size;
  if (byte >= bytes) return;
  const unsigned* own = points + static_cast<int64_t>(item) * words;
  unsigned found = 0;
  for (int bit = 0; bit < 8; ++bit) {
    const int pixel = byte * 8 + bit;
    bool lit = false;
    if (patches(style)) {
      for (int place = 0; place < 9; ++place) {
        const int from = pixel - 1 - place % 3 + (1 + place / 3) * size;
        lit |= from >= 0 && holds(own, from, pixels);
      }
    } else {
      lit = holds(own, pixel, pixels);
    }
    found |= static_cast<unsigned>(lit && pixel < pixels) << bit;
  }
  out[static_cast<int64_t>(item) * bytes + byte] = static_cast<unsigned char>(found);
}

// The colour's number of each pixel.
__global__ void number(const unsigned* last, int64_t pixels, unsigned char* out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < pixels) out[i] = last[i] ? (last[i] / 16 - 1) % kHues + 1 : 0;
}

// The picture: a bit of the mask of the last point at each pixel.
__global__ void resolve(const unsigned* last, const int64_t* seeds, const unsigned char* palette, int pixels, int style,
                        unsigned char* out) {
  const int pixel = blockIdx.x * blockDim.x + threadIdx.x, item = blockIdx.y;
  if (pixel >= pixels) return;
  const int64_t at = static_cast<int64_t>(item) * pixels + pixel;
  const unsigned key = last[at];
  bool lit = key != 0;
  const unsigned point = key / 16 - 1;
  if (lit && patches(style)) {
    const Philox drawn(static_cast<uint64_t>(seeds[item]), point / 4, kMasks, 0, 0);
    lit = mask_of(drawn.word[point % 4]) >> (8 - key % 16) & 1;
  }
  if (gray(style)) {
    out[at] = lit ? kLit : 0;
  } else {
    const unsigned char* colour = palette + 3 * (lit ? point % kHues + 1 : 0);
    for (int channel = 0; channel < 3; ++channel) out[3 * at + channel] = colour[channel];
  }
}

// Four words of random bits, so 128 pixels, a thread.
__global__ void draw(const unsigned char* bits, const int64_t* seeds, const unsigned char* palette, int pixels, int style,
                     int bytes, unsigned char* out) {
  const int group = blockIdx.x * blockDim.x + threadIdx.x, item = blockIdx.y;
  if (group * 128 >= pixels) return;
  unsigned lit[4] = {~0u, ~0u, ~0u, ~0u};
  if (patches(style)) {
    const uint64_t seed = static_cast<uint64_t>(seeds[item]);
    for (unsigned n = 1; n < kWordsOfBits; ++n) {
      const Philox drawn(seed, group, kBits, n, 0);
      for (int w = 0; w < 4; ++w) lit[w] &= drawn.word[w];
    }
    const Philox drawn(seed, group, kBits, 0, 0);
    for (int w = 0; w < 4; ++w) lit[w] |= drawn.word[w];
  }
  const unsigned char* stored = bits + static_cast<int64_t>(item) * bytes;
#pragma unroll
  for (int w = 0; w < 4; ++w)
    for (int bit = 0; bit < 32; ++bit) {
      const int pixel = group * 128 + w * 32 + bit;
      if (pixel >= pixels) return;
      const bool on = lit[w] >> bit & 1;
      const int64_t at = static_cast<int64_t>(item) * pixels + pixel;
      if (gray(style)) {
        out[at] = on && (stored[pixel / 8] >> (pixel % 8) & 1) ? kLit : 0;
      } else {
        const unsigned char* colour = palette + 3 * (on ? stored[pixel] : 0);
        for (int channel = 0; channel < 3; ++channel) out[3 * at + channel] = colour[channel];
      }
    }
}

void check(cudaError_t status) { STD_TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status)); }

// The device of a tensor, made the current one for as long as this lives, and torch's stream on it.
struct Place {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Place(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* found = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &found));
    stream = static_cast<cudaStream_t>(found);
  }
};

constexpr int64_t kMost = 65535;  // blocks along the second axis of a grid

void check_count(int64_t count) {
  STD_TORCH_CHECK(count <= kMost, "a call on a GPU takes at most ", kMost, " formulas, not ", count);
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

Tensor zeros(const Tensor& like, int64_t count, ScalarType type) {
  return torch::stable::new_zeros(like, {count}, type);
}

// Formulas whose paths are known; tensors that belong to them live as long.
struct Followed {
  Formulas formulas;
  Tensor starts, summaries, finite;

  Followed(const Tensor& maps, const Tensor& probabilities, const Tensor& weights, const Tensor& uniforms,
           cudaStream_t stream)
      : formulas{data<double>(maps), data<double>(probabilities), data<double>(weights), data<double>(uniforms),
                 static_cast<int>(maps.size(0)), static_cast<int>(maps.size(1)), static_cast<int>(uniforms.size(0))},
        starts(torch::stable::new_empty(maps, {maps.size(0) * kParts * 2}, ScalarType::Double)),
        summaries(torch::stable::new_empty(
            maps, {maps.size(0) * static_cast<int64_t>(sizeof(Summary) / sizeof(double))}, ScalarType::Double)),
        finite(torch::stable::new_empty(maps, {maps.size(0)}, ScalarType::Bool)) {
    const int shared = table_bytes() * kFollowers;
    check(cudaFuncSetAttribute(follow, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    follow<<<(formulas.count + kFollowers - 1) / kFollowers, kFollowers, shared, stream>>>(
        formulas, at(), summary(), data<bool>(finite));
    check(cudaGetLastError());
  }

  int table_bytes() const { return 7 * formulas.most * static_cast<int>(sizeof(double)); }
  double2* at() const { return static_cast<double2*>(starts.data_ptr()); }
  Summary* summary() const { return static_cast<Summary*>(summaries.data_ptr()); }
};

Tensor last_points(const Followed& known, const Tensor& like, int size, int style, cudaStream_t stream) {
  Tensor last = zeros(like, static_cast<int64_t>(known.formulas.count) * size * size, ScalarType::Int);
  mark_last<<<known.formulas.count, kParts, known.table_bytes(), stream>>>(known.formulas, known.at(), known.summary(),
                                                                          size, style, data<unsigned>(last));
  check(cudaGetLastError());
  return last;
}

std::tuple<Tensor, Tensor, Tensor> support(Tensor maps, Tensor probabilities, Tensor weights, Tensor uniforms,
                                           int64_t size, int64_t style, int64_t /*threads*/) {
  check_count(maps.size(0));
  const Place place(maps);
  const Followed known(maps, probabilities, weights, uniforms, place.stream);
  const int count = known.formulas.count, pixels = static_cast<int>(size * size), words = (pixels + 31) / 32;
  const int kind = static_cast<int>(style), side = static_cast<int>(size);
  const int bytes = gray(kind) ? (pixels + 7) / 8 : pixels;
  Tensor points = zeros(maps, static_cast<int64_t>(count) * words, ScalarType::Int);
  Tensor lit = zeros(maps, count, ScalarType::Long);
  Tensor bits = torch::stable::new_empty(maps, {count, bytes}, ScalarType::Byte);
  mark_points<<<count, kParts, known.table_bytes(), place.stream>>>(known.formulas, known.at(), known.summary(), side,
                                                                   words, data<unsigned>(points));
  check(cudaGetLastError());
  count_bits<<<count, 256, 0, place.stream>>>(data<unsigned>(points), words, data<long long>(lit));
  check(cudaGetLastError());
  if (gray(kind)) {
    const dim3 grid((bytes + 255) / 256, count);
    pack<<<grid, 256, 0, place.stream>>>(data<unsigned>(points), side, words, kind, bytes, data<unsigned char>(bits));
  } else {
    const Tensor last = last_points(known, maps, side, kind, place.stream);
    const int64_t all = static_cast<int64_t>(count) * pixels;
    number<<<static_cast<unsigned>((all + 255) / 256), 256, 0, place.stream>>>(data<unsigned>(last), all,
                                                                              data<unsigned char>(bits));
  }
  check(cudaGetLastError());
  return std::make_tuple(bits, lit, known.finite);
}

Tensor images_like(const Tensor& like, int64_t count, int64_t size, int style) {
  if (gray(style)) return torch::stable::new_empty(like, {count, size, size}, ScalarType::Byte);
  return torch::stable::new_empty(like, {count, size, size, 3}, ScalarType::Byte);
}

Tensor render(Tensor maps, Tensor probabilities, Tensor weights, Tensor uniforms, Tensor seeds, Tensor palette,
              int64_t size, int64_t style, int64_t /*threads*/) {
  check_count(maps.size(0));
  const Place place(maps);
  const Followed known(maps, probabilities, weights, uniforms, place.stream);
  const int count = known.formulas.count, pixels = static_cast<int>(size * size), kind = static_cast<int>(style);
  const Tensor last = last_points(known, maps, static_cast<int>(size), kind, place.stream);
  Tensor images = images_like(maps, count, size, kind);
  resolve<<<dim3((pixels + 255) / 256, count), 256, 0, place.stream>>>(data<unsigned>(last), data<int64_t>(seeds),
                                                                      data<unsigned char>(palette), pixels, kind,
                                                                      data<unsigned char>(images));
  check(cudaGetLastError());
  return images;
}

Tensor draw_all(Tensor bits, Tensor seeds, Tensor palette, int64_t size, int64_t style, int64_t /*threads*/) {
  check_count(bits.size(0));
  const Place place(bits);
  const int pixels = static_cast<int>(size * size), kind = static_cast<int>(style);
  const int count = static_cast<int>(bits.size(0)), groups = (pixels + 127) / 128;
  Tensor images = images_like(bits, count, size, kind);
  draw<<<dim3((groups + 127) / 128, count), 128, 0, place.stream>>>(
      data<unsigned char>(bits), data<int64_t>(seeds), data<unsigned char>(palette), pixels, kind,
      static_cast<int>(bits.size(1)), data<unsigned char>(images));
  check(cudaGetLastError());
  return images;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CUDA, library) {
  library.impl("fractal_support", TORCH_BOX(&support));
  library.impl("fractal_render", TORCH_BOX(&render));
  library.impl("fractal_draw", TORCH_BOX(&draw_all));
}
