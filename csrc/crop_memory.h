// What memory a block of a GPU cuts a crop with: how much it needs, where rows lie in between, and where they go.
#pragma once

#include <cstdint>

#include "crop.h"

namespace crop {

// What scratch has to hold at least: weights of one pixel on either axis, bytes of lines.
struct Need {
  int across = 0, down = 0;
  int64_t lines = 0;

  BOTH int64_t bytes(int size) const { return (lines + 3) / 4 * 4 + 4 * size * (int64_t{2} + across + down); }

  // A part of a picture needs no more than the whole does.
  BOTH void add(const Picture& picture, const Box& box, int size, Filter filter) {
    const int x = most(Axis(box.left, box.right, picture.width, size, filter));
    const int y = most(Axis(box.top, box.bottom, picture.height, size, filter));
    const bool columns = columns_first(picture.height, picture.width, size);
    const int64_t held = columns ? int64_t{3} * picture.width : int64_t{3} * size * y;
    across = x > across ? x : across, down = y > down ? y : down, lines = held > lines ? held : lines;
  }

  void add(const Picture& picture, int size, Filter filter) {
    add(picture, {0.0, 0.0, static_cast<double>(picture.width), static_cast<double>(picture.height)}, size, filter);
  }

  // Pixels in reach, some more for what rounding may add; odd, so that the lanes of a warp find the weights of their
  // pixels in banks of their own.
  BOTH static int most(const Axis& axis) { return (static_cast<int>(2 * axis.support + 1e-6) + 1) | 1; }
};

#ifdef __CUDACC__

// Where a crop goes: three bytes a pixel, so many bytes to the next row.
struct Rows {
  uint8_t* first;
  int pitch;
  __device__ __forceinline__ uint8_t* row(int y) const { return first + static_cast<int64_t>(y) * pitch; }
};

__device__ __forceinline__ bool in_words(const uint8_t* first, int pitch) {
  return (reinterpret_cast<uintptr_t>(first) | pitch) % 4 == 0;
}

// Memory between the passes.
struct Lines {
  uint8_t* start;
  int64_t bytes;
};

struct Nowhere {
  __device__ __forceinline__ Lines operator()(int) const { return {nullptr, 0}; }
};

// Lines of a block's own, and those that `beside(end)` finds while no row of the result from `end` on is there.
template <typename Beside>
struct Room {
  Lines own;
  Beside beside;

  __device__ __forceinline__ Lines operator()(int end, int64_t bytes) const {
    if (bytes <= own.bytes) return own;
    const Lines other = beside(end);
    return bytes <= other.bytes ? other : Lines{nullptr, 0};
  }

  __device__ __forceinline__ bool holds(int end, int64_t bytes) const { return (*this)(end, bytes).bytes > 0; }
};

#endif

}  // namespace crop
