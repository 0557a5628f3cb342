// A block of a GPU cuts one crop and hands every value to a functor, which may put it into a tile for what comes next.
//
// Weights of both axes are computed once. Rows of the result then come in order, as many at once as the lines hold: a
// ring of resized rows of the picture, or, where columns come first, rows of the result that lack their second pass.
// All of it lies in scratch, which is shared memory where that suffices.
#pragma once

#include <cstdint>

#include "crop.h"

namespace crop {

constexpr int kLanes = 32;

// What scratch has to hold at least for every picture of a batch: weights of one pixel on either axis, bytes of lines.
struct Need {
  int across = 0, down = 0;
  int64_t lines = 0;

  int64_t bytes(int size) const { return (lines + 3) / 4 * 4 + 4 * size * (int64_t{2} + across + down); }

  void add(const Picture& picture, int size, Filter filter) {
    const int x = most(picture.width, size, filter), y = most(picture.height, size, filter);
    const bool columns = columns_first(picture.height, picture.width, size);
    const int64_t held = columns ? 3 * picture.width : int64_t{3} * size * y;
    across = x > across ? x : across, down = y > down ? y : down, lines = held > lines ? held : lines;
  }

  // Odd, so that the lanes of a warp find the weights of their pixels in banks of their own.
  static int most(int side, int size, Filter filter) {
    const int reached = static_cast<int>(reach(filter));
    return side <= size ? 2 * reached + 1 : 2 * static_cast<int>((int64_t{reached} * side + size - 1) / size) + 1;
  }
};

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

template <typename Store>
__device__ __forceinline__ void by_rows(const Picture& picture, int size, const Table& x, const Table& y,
                                        uint8_t* lines, int held, Store store) {
  const int pitch = 3 * size;
  int ready = 0;  // rows before this one are in the ring, or no longer needed
  for (int begin = 0; begin < size;) {
    const int kept = y.spans[begin].first;
    int end = begin + 1;
    while (end < size && y.spans[end].end() - kept <= held) ++end;
    const int from = max(ready, kept), until = y.spans[end - 1].end();
    over(until - from, size, [&](int line, int column) {
      const Span span = x.spans[column];
      const uint8_t* pixels = picture.pixels + (from + line) * picture.row + span.first * picture.step;
      uint8_t* to = lines + (from + line) % held * pitch + 3 * column;
      mix(pixels, picture.step, x.of(column), span.count, [&](int channel, uint8_t value) { to[channel] = value; });
    });
    __syncthreads();
    over(end - begin, pitch, [&](int line, int at) {
      const Span span = y.spans[begin + line];
      const int32_t* tap = y.of(begin + line);
      int32_t sum = kHalf;
      for (int k = 0, slot = span.first % held; k < span.count; ++k, slot = slot + 1 < held ? slot + 1 : 0)
        sum += tap[k] * lines[slot * pitch + at];
      store(begin + line, at / 3, at % 3, rounded(sum));
    });
    __syncthreads();  // rows that were read may be replaced
    ready = until, begin = end;
  }
}

template <typename Store>
__device__ __forceinline__ void by_columns(const Picture& picture, int size, const Table& x, const Table& y,
                                           uint8_t* lines, int64_t room, Store store) {
  const int origin = x.spans[0].first, columns = x.spans[size - 1].end() - origin, pitch = 3 * columns;
  const int held = static_cast<int>(min(room / pitch, static_cast<int64_t>(size)));
  for (int begin = 0; begin < size; begin += held) {
    const int count = min(held, size - begin);
    over(count, columns, [&](int line, int column) {
      const Span span = y.spans[begin + line];
      const uint8_t* pixels = picture.pixels + span.first * picture.row + (origin + column) * picture.step;
      uint8_t* to = lines + line * pitch + 3 * column;
      mix(pixels, picture.row, y.of(begin + line), span.count,
          [&](int channel, uint8_t value) { to[channel] = value; });
    });
    __syncthreads();
    over(count, size, [&](int line, int column) {
      const Span span = x.spans[column];
      const uint8_t* pixels = lines + line * pitch + 3 * (span.first - origin);
      mix(pixels, 3, x.of(column), span.count,
          [&](int channel, uint8_t value) { store(begin + line, column, channel, value); });
    });
    __syncthreads();  // lines that were read may be replaced
  }
}

// store(y, x, channel, value) once for each value of a crop, by all threads of a block of whole warps; they meet before
// it returns. `scratch` has need.bytes(size), aligned to four.
template <typename Store>
__device__ __forceinline__ void crop_into(const Picture picture, const Box& asked, int size, Filter filter,
                                          const Need& need, uint8_t* scratch, Store store) {
  auto* spans = reinterpret_cast<Span*>(scratch);
  auto* weights = reinterpret_cast<int32_t*>(scratch + 8 * size);
  const Table x{spans, weights, need.across}, y{spans + size, weights + size * need.across, need.down};
  uint8_t* lines = scratch + 4 * size * (2 + need.across + need.down);
  const Box box = within(asked, picture);
  for (int i = threadIdx.x; i < 2 * size; i += blockDim.x) {
    if (i < size)
      x.set(Axis(box.left, box.right, picture.width, size, filter), i);
    else
      y.set(Axis(box.top, box.bottom, picture.height, size, filter), i - size);
  }
  __syncthreads();
  if (columns_first(picture.height, picture.width, size))
    by_columns(picture, size, x, y, lines, need.lines, store);
  else
    by_rows(picture, size, x, y, lines, static_cast<int>(need.lines / (3 * size)), store);
}

#endif

}  // namespace crop
