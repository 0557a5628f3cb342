// One view in the memory of a block of threads: filled, changed in place and written out. Device code.
#pragma once

#include <cuda_pipeline.h>

#include "row.h"

namespace views {

constexpr int kThreads = 512, kWarps = kThreads / 32, kHalf = kThreads / 2, kPasses = 3, kHalo = 2 * kPasses;

// Interleaved pixels. Rows are an odd number of words apart, so that a warp on 32 rows finds them in 32 banks, and hold
// whole groups of four pixels, which are three words.
struct Tile {
  unsigned char* pixels;
  int height, width;

  __host__ __device__ static int row_words(int width) { return (width + 3) / 4 * 3 | 1; }
  __host__ __device__ static int64_t bytes(int64_t height, int width) { return height * row_words(width) * 4; }
  __device__ int pitch() const { return row_words(width) * 4; }
  __device__ int row_bytes() const { return 3 * width; }
  __device__ unsigned char* row(int y) const { return pixels + y * pitch(); }
  __device__ unsigned* words(int y) const { return reinterpret_cast<unsigned*>(row(y)); }
};

struct Workspace {  // of a block
  Row row;
  unsigned long long sums[kWarps];
  unsigned char halos[kHalo][kThreads];
};

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

__device__ __forceinline__ bool in_words(const unsigned char* at, int bytes) {
  return bytes % 4 == 0 && reinterpret_cast<uintptr_t>(at) % 4 == 0;
}

// Fills a tile with the pixels of an image. Whatever else fills one has the same call, and need not synchronise.
template <bool kShared>
struct FromImages {
  const unsigned char* images;

  __device__ __forceinline__ void operator()(const Tile& tile, int64_t view) const {
    const int bytes = tile.row_bytes();
    const unsigned char* from = images + view * tile.height * bytes;
    if (in_words(from, bytes))
      for (int y = warp(); y < tile.height; y += kWarps)
        for (int i = 4 * lane(); i < bytes; i += 128) copy(tile.row(y) + i, from + static_cast<int64_t>(y) * bytes + i);
    else
      for (int y = warp(); y < tile.height; y += kWarps)
        for (int i = lane(); i < bytes; i += 32) tile.row(y)[i] = from[static_cast<int64_t>(y) * bytes + i];
    if (kShared) {
      __pipeline_commit();
      __pipeline_wait_prior(0);
    }
  }

  __device__ __forceinline__ static void copy(unsigned char* to, const unsigned char* from) {
    if (kShared)
      __pipeline_memcpy_async(to, from, 4);
    else
      *reinterpret_cast<unsigned*>(to) = *reinterpret_cast<const unsigned*>(from);
  }
};

struct Pixel {
  int red, green, blue;

  __device__ __forceinline__ int gray() const { return luma(red, green, blue); }

  __device__ __forceinline__ void blend(int base, float factor) {
    red = blended(base, red, factor), green = blended(base, green, factor), blue = blended(base, blue, factor);
  }

  __device__ __forceinline__ void turn_hue(int shift) {
    const int high = most(red, most(green, blue)), spread = high - least(red, least(green, blue));
    const bool is_red = red == high, is_green = green == high;
    const int from = is_red ? green : is_green ? blue : red, taken = is_red ? blue : is_green ? red : green;
    const float sixths = is_red ? (green < blue ? 6.0f : 0.0f) : is_green ? 2.0f : 4.0f;
    const float found = hue_of(difference(from, taken), sixths, spread);
    const int hue = floored(found), down = whole(found) && rounds_down(static_cast<uint8_t>(hue));
    const int turned = 2 * ((hue - down + shift) & 255), saturation = saturation_of(spread, high);
    red = channel(high, saturation * distance(turned, 0));
    green = channel(high, saturation * distance(turned, 170));
    blue = channel(high, saturation * distance(turned, 340));
  }

  __device__ __forceinline__ void change(unsigned step, const Row& row, int mean) {
    switch (step) {
      case kBrightness: return blend(0, row.factors[0]);
      case kContrast: return blend(mean, row.factors[1]);
      case kSaturation: return blend(gray(), row.factors[2]);
      case kHue: return turn_hue(row.shift);
      default: red = green = blue = gray();
    }
  }
};

__device__ __forceinline__ int byte_of(unsigned word, int number) { return word >> (8 * number) & 255; }

__device__ __forceinline__ unsigned word_of(int a, int b, int c, int d) { return a | b << 8 | c << 16 | d << 24; }

// Steps on all pixels, those of a thread being the same for each; returns the sum of its lumas if that is asked for.
__device__ __forceinline__ unsigned long long change(const Tile& tile, unsigned steps, const Row& row, int mean,
                                                     bool sums) {
  unsigned sum = 0;
  for (int y = warp(); y < tile.height; y += kWarps)
    for (int x = 4 * lane(); x < tile.width; x += 128) {
      unsigned* at = tile.words(y) + x / 4 * 3;
      const unsigned a = at[0], b = at[1], c = at[2];
      Pixel four[4] = {{byte_of(a, 0), byte_of(a, 1), byte_of(a, 2)},
                       {byte_of(a, 3), byte_of(b, 0), byte_of(b, 1)},
                       {byte_of(b, 2), byte_of(b, 3), byte_of(c, 0)},
                       {byte_of(c, 1), byte_of(c, 2), byte_of(c, 3)}};
      for (unsigned rest = steps; rest; rest >>= 4)
#pragma unroll
        for (Pixel& pixel : four) pixel.change(rest & 15, row, mean);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum += sums && x + i < tile.width ? four[i].gray() : 0;
      if (!steps) continue;
      at[0] = word_of(four[0].red, four[0].green, four[0].blue, four[1].red);
      at[1] = word_of(four[1].green, four[1].blue, four[2].red, four[2].green);
      at[2] = word_of(four[2].blue, four[3].red, four[3].green, four[3].blue);
    }
  return sum;
}

// Of a number of each thread, in every thread.
__device__ __forceinline__ unsigned long long block_sum(unsigned long long value, Workspace& space) {
  for (int step = 16; step; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if (lane() == 0) space.sums[warp()] = value;
  __syncthreads();
  unsigned long long sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += space.sums[i];
  return sum;
}

// Written to an image in memory: solarised and flipped on the way.
__device__ __forceinline__ void write_out(const Tile& tile, const Row& row, unsigned char* out) {
  const int bytes = tile.row_bytes(), last = bytes - 3;
  const unsigned threshold = row.threshold * 0x01010101u;
  const bool words = in_words(out, bytes);
  for (int y = warp(); y < tile.height; y += kWarps) {
    const unsigned char* from = tile.row(row.upside_down ? tile.height - 1 - y : y);
    unsigned char* to = out + static_cast<int64_t>(y) * bytes;
    auto byte = [&](int i) { return static_cast<unsigned>(from[row.mirrored ? last - i + 2 * (i % 3) : i]); };
    auto inverted = [&](unsigned four) { return row.solarizes() ? four ^ __vcmpgeu4(four, threshold) : four; };
    if (words)
      for (int i = 4 * lane(); i < bytes; i += 128) {
        const unsigned four = row.mirrored ? word_of(byte(i), byte(i + 1), byte(i + 2), byte(i + 3))
                                           : *reinterpret_cast<const unsigned*>(from + i);
        *reinterpret_cast<unsigned*>(to + i) = inverted(four);
      }
    else
      for (int i = lane(); i < bytes; i += 32) to[i] = static_cast<unsigned char>(inverted(byte(i)));
  }
}

}  // namespace views
