// A block of a GPU cuts one crop into rows in memory, which may be a tile that is kept for what comes next.
//
// Weights of both axes are computed once. Rows of the result then come in order, as many at once as the lines hold: a
// ring of resized rows of the picture, or, where columns come first, rows of the result that lack their second pass.
// All of it lies in scratch, which is shared memory where that suffices, and lines also beside it if a caller has room.
#pragma once

#include <cstdint>

#include "crop_memory.h"

namespace crop {

constexpr int kLanes = 32;

#ifdef __CUDACC__

// The part of a box within a picture; no memory is read elsewhere, whatever a box says.
__device__ __forceinline__ Box within(const Box& box, const Picture& picture) {
  const double left = fmin(fmax(box.left, 0.0), static_cast<double>(picture.width));
  const double top = fmin(fmax(box.top, 0.0), static_cast<double>(picture.height));
  return {left, top, fmin(fmax(box.right, left), static_cast<double>(picture.width)),
          fmin(fmax(box.bottom, top), static_cast<double>(picture.height))};
}

__device__ __forceinline__ uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(min(max(sum >> kBits, 0), 255)); }

// Spans and weights of one axis.
struct Table {
  Span* spans;
  int32_t* weights;
  int most;

  __device__ __forceinline__ const int32_t* of(int i) const { return weights + i * most; }

  __device__ __forceinline__ void set(const Axis& axis, int i) const {
    Span span = axis.span(i);
    span.count = static_cast<uint16_t>(min(static_cast<int>(span.count), most));
    spans[i] = span;
    axis.taps(i, span, weights + i * most);
  }
};

// work(line, column) for every column of every line; a warp has columns beside each other of one line.
template <typename Work>
__device__ __forceinline__ void over(int lines, int columns, Work work) {
  const int tiles = (columns + kLanes - 1) / kLanes, warps = blockDim.x / kLanes;
  for (int tile = threadIdx.x / kLanes; tile < lines * tiles; tile += warps) {
    const int column = tile % tiles * kLanes + threadIdx.x % kLanes;
    if (column < columns) work(tile / tiles, column);
  }
}

// Three channels of pixels `step` bytes apart, weighted: put(channel, value).
template <typename Put>
__device__ __forceinline__ void mix(const uint8_t* from, int64_t step, const int32_t* tap, int count, Put put) {
  int32_t red = kHalf, green = kHalf, blue = kHalf;
  for (int k = 0; k < count; ++k, from += step)
    red += tap[k] * from[0], green += tap[k] * from[1], blue += tap[k] * from[2];
  put(0, rounded(red)), put(1, rounded(green)), put(2, rounded(blue));
}

// Four bytes of a row of the result, or one, of the rows in a ring.
__device__ __forceinline__ void down(const uint8_t* lines, int pitch, int held, Span span, const int32_t* tap,
                                     unsigned* out) {
  int32_t a = kHalf, b = a, c = a, d = a;
  for (int k = 0, slot = span.first % held; k < span.count; ++k, slot = slot + 1 < held ? slot + 1 : 0) {
    const unsigned four = *reinterpret_cast<const unsigned*>(lines + slot * pitch);
    a += tap[k] * static_cast<int>(four & 255), b += tap[k] * static_cast<int>(four >> 8 & 255);
    c += tap[k] * static_cast<int>(four >> 16 & 255), d += tap[k] * static_cast<int>(four >> 24);
  }
  *out = rounded(a) | rounded(b) << 8 | rounded(c) << 16 | static_cast<unsigned>(rounded(d)) << 24;
}

__device__ __forceinline__ void down(const uint8_t* lines, int pitch, int held, Span span, const int32_t* tap,
                                     uint8_t* out) {
  int32_t sum = kHalf;
  for (int k = 0, slot = span.first % held; k < span.count; ++k, slot = slot + 1 < held ? slot + 1 : 0)
    sum += tap[k] * lines[slot * pitch];
  *out = rounded(sum);
}

template <typename Beside>
__device__ __forceinline__ void by_rows(const Picture& picture, int size, const Table& x, const Table& y,
                                        const Room<Beside>& room, const Rows& out) {
  const int pitch = 3 * size;
  const bool words = pitch % 4 == 0 && in_words(out.first, out.pitch);  // lines begin at words
  const uint8_t* before = nullptr;
  int ready = 0;  // rows before this one are in the ring, or no longer needed
  for (int begin = 0; begin < size;) {
    const int kept = y.spans[begin].first;
    int end = begin + 1;
    while (end < size && room.holds(end + 1, int64_t{y.spans[end].end() - kept} * pitch)) ++end;
    const int until = y.spans[end - 1].end();
    const Lines ring = room(end, int64_t{until - kept} * pitch);
    const int held = static_cast<int>(ring.bytes / pitch), from = ring.start == before ? max(ready, kept) : kept;
    uint8_t* lines = ring.start;
    over(until - from, size, [&](int line, int column) {
      const Span span = x.spans[column];
      const uint8_t* pixels = picture.pixels + (from + line) * picture.row + span.first * picture.step;
      uint8_t* to = lines + (from + line) % held * pitch + 3 * column;
      mix(pixels, picture.step, x.of(column), span.count, [&](int channel, uint8_t value) { to[channel] = value; });
    });
    __syncthreads();
    auto pass = [&](auto* first, int bytes) {
      over(end - begin, pitch / bytes, [&](int line, int at) {
        auto* to = reinterpret_cast<decltype(first)>(out.row(begin + line)) + at;
        down(lines + bytes * at, pitch, held, y.spans[begin + line], y.of(begin + line), to);
      });
    };
    if (words)
      pass(static_cast<unsigned*>(nullptr), 4);
    else
      pass(static_cast<uint8_t*>(nullptr), 1);
    __syncthreads();  // rows that were read may be replaced
    ready = until, begin = end, before = lines;
  }
}

template <typename Beside>
__device__ __forceinline__ void by_columns(const Picture& picture, int size, const Table& x, const Table& y,
                                           const Room<Beside>& room, const Rows& out) {
  const int origin = x.spans[0].first, columns = x.spans[size - 1].end() - origin, pitch = 3 * columns;
  for (int begin = 0; begin < size;) {
    int end = begin + 1;
    while (end < size && room.holds(end + 1, int64_t{end + 1 - begin} * pitch)) ++end;
    uint8_t* lines = room(end, int64_t{end - begin} * pitch).start;
    over(end - begin, columns, [&](int line, int column) {
      const Span span = y.spans[begin + line];
      const uint8_t* pixels = picture.pixels + span.first * picture.row + (origin + column) * picture.step;
      uint8_t* to = lines + line * pitch + 3 * column;
      mix(pixels, picture.row, y.of(begin + line), span.count,
          [&](int channel, uint8_t value) { to[channel] = value; });
    });
    __syncthreads();
    over(end - begin, size, [&](int line, int column) {
      const Span span = x.spans[column];
      const uint8_t* pixels = lines + line * pitch + 3 * (span.first - origin);
      uint8_t* to = out.row(begin + line) + 3 * column;
      mix(pixels, 3, x.of(column), span.count, [&](int channel, uint8_t value) { to[channel] = value; });
    });
    __syncthreads();  // lines that were read may be replaced
    begin = end;
  }
}

// By all threads of a block of whole warps; they meet before it returns. `scratch` has need.bytes(size), aligned to
// four, as lines `beside` are, for which see `Room`.
template <typename Beside = Nowhere>
__device__ __forceinline__ void crop_into(const Picture picture, const Box& asked, int size, Filter filter,
                                          const Need& need, uint8_t* scratch, const Rows& out, Beside beside = {}) {
  auto* spans = reinterpret_cast<Span*>(scratch);
  auto* weights = reinterpret_cast<int32_t*>(scratch + 8 * size);
  const Table x{spans, weights, need.across}, y{spans + size, weights + size * need.across, need.down};
  const Room<Beside> room{{scratch + 4 * size * (2 + need.across + need.down), need.lines}, beside};
  const Box box = within(asked, picture);
  for (int i = threadIdx.x; i < 2 * size; i += blockDim.x) {
    if (i < size)
      x.set(Axis(box.left, box.right, picture.width, size, filter), i);
    else
      y.set(Axis(box.top, box.bottom, picture.height, size, filter), i - size);
  }
  __syncthreads();
  if (columns_first(picture.height, picture.width, size))
    by_columns(picture, size, x, y, room, out);
  else
    by_rows(picture, size, x, y, room, out);
}

#endif

}  // namespace crop
