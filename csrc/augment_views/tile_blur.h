// Pillow's Gaussian blur of a tile, in place: rows, then columns, the three boxes of a line following one another.
#pragma once

#include "tile.h"

namespace views {

template <bool kWide>
struct Stage {  // a box that slides: what it last took in, the oldest first
  static constexpr int kReach = kWide ? 2 : 1, kOld = 2 * kReach;
  unsigned old[kOld];

  // The box around the sample that came kReach before this one.
  __device__ __forceinline__ unsigned push(const Box& box, unsigned value) {
    unsigned inner = old[1];
    if (kWide) inner += old[kOld - 2] + old[kOld - 1];
    const unsigned found = boxed(box, inner, old[0] + value);
#pragma unroll
    for (int i = 0; i + 1 < kOld; ++i) old[i] = old[i + 1];
    old[kOld - 1] = value;
    return found;
  }

  // The same where samples may lie before the first or behind the last of the line, which then stand for them.
  __device__ __forceinline__ unsigned push_at(const Box& box, unsigned value, int place, int first, int length) {
    if (place <= first)
#pragma unroll
      for (unsigned& one : old) one = value;
    return push(box, place < length ? value : old[kOld - 1]);
  }
};

// Samples of a tile `step` bytes apart.
struct Line {
  unsigned char* start;
  int step, length;
  __device__ __forceinline__ unsigned char& operator[](int i) const { return start[i * step]; }
};

// Samples `begin` .. `end` - 1, at one end or the other of a line. The halo are the `lag` samples at the other side.
template <bool kWide>
__device__ __forceinline__ void slide(const Line& line, const Box& box, int begin, int end,
                                      const unsigned char* halo) {
  constexpr int reach = Stage<kWide>::kReach, lag = kPasses * reach, batch = 4;
  const int first = max(0, begin - lag);
  Stage<kWide> one, two, three;
  auto with_care = [&](int from, int to) {
#pragma unroll 1
    for (int i = from; i < to; ++i) {
      unsigned value = 0;
      if (i < line.length)
        value = i >= begin && i < end ? line[i] : halo[(i - (begin ? first : end)) * kThreads];
      value = one.push_at(box, value, i, first, line.length);
      value = two.push_at(box, value, i - reach, first, line.length);
      value = three.push_at(box, value, i - 2 * reach, first, line.length);
      if (i - lag >= begin && i - lag < end) line[i - lag] = static_cast<unsigned char>(value);
    }
  };
  int i = begin + lag;  // from here to the end all samples are there and none lies outside
  with_care(first, i);
#pragma unroll 1
  for (; i + batch <= end; i += batch) {
    unsigned values[batch];
#pragma unroll
    for (int k = 0; k < batch; ++k) values[k] = line[i + k];
#pragma unroll
    for (int k = 0; k < batch; ++k)
      line[i + k - lag] = static_cast<unsigned char>(three.push(box, two.push(box, one.push(box, values[k]))));
  }
  with_care(i, end + lag);
}

// Half of the threads take the first halves of some lines, the others the second halves; what one changes and the other
// needs is kept first.
template <bool kWide, class Lines>
__device__ __forceinline__ void slide_all(int count, const Box& box, Workspace& space, Lines lines) {
  constexpr int lag = kPasses * Stage<kWide>::kReach;
  unsigned char* halo = &space.halos[0][threadIdx.x];
  const bool second = threadIdx.x >= kHalf;
  for (int base = 0; base < count; base += kHalf) {
    const int number = base + threadIdx.x % kHalf;
    const bool mine = number < count;
    const Line line = lines(mine ? number : 0);
    const int middle = line.length / 2;
    const int from = second ? max(0, middle - lag) : middle, to = second ? middle : min(middle + lag, line.length);
#pragma unroll 1
    for (int i = from; mine && i < to; ++i) halo[(i - from) * kThreads] = line[i];
    __syncthreads();
    if (mine) slide<kWide>(line, box, second ? middle : 0, second ? line.length : middle, halo);
  }
}

template <bool kWide>
__device__ __forceinline__ void blur_by(const Tile& tile, const Box& box, Workspace& space) {
  const int height = tile.height, width = tile.width, pitch = tile.pitch();
  slide_all<kWide>(3 * height, box, space, [&](int line) {  // neighbouring threads have neighbouring rows
    return Line{tile.row(line % height) + line / height, 3, width};
  });
  __syncthreads();
  slide_all<kWide>(3 * width, box, space, [&](int line) { return Line{tile.pixels + line, pitch, height}; });
}

__device__ __forceinline__ void blur(const Tile& tile, const Box& box, Workspace& space) {
  if (box.wide)
    blur_by<true>(tile, box, space);
  else
    blur_by<false>(tile, box, space);
}

}  // namespace views
