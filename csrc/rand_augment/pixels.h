// A picture on a GPU: all threads of a block go through it together, each four pixels at a time.
#pragma once

#include <cuda_runtime.h>

namespace rand_augment {

constexpr int kThreads = 256, kGroup = 4;  // pixels that a thread writes at once, as three words

struct Pixel {
  int red, green, blue;

  template <typename Change>
  __device__ Pixel each(Change change) const {
    return {change(red), change(green), change(blue)};
  }
};

// Four pixels as they lie in memory, complete when the fourth is appended.
struct Group {
  unsigned word[3] = {};

  __device__ void append(Pixel p) {
    word[0] = word[0] >> 24 | word[1] << 8;
    word[1] = word[1] >> 24 | word[2] << 8;
    word[2] = word[2] >> 24 | unsigned(p.red) << 8 | unsigned(p.green) << 16 | unsigned(p.blue) << 24;
  }
};

// A picture, and where it is read from and written to.
struct Frame {
  const unsigned char* from;
  unsigned char* to;
  int height, width, pixels;
  bool words;  // whether both buffers may be read and written by words

  __device__ Pixel at(int pixel) const {
    const unsigned char* p = from + 3 * pixel;
    return {p[0], p[1], p[2]};
  }

  // make(pixel) -> Pixel for all of them, one after another, as a place between pixels takes many registers.
  template <typename Make>
  __device__ void fill(Make make) const {
    for (int first = threadIdx.x * kGroup; first < pixels; first += kThreads * kGroup) {
      Group made;
#pragma unroll 1
      for (int i = 0; i < kGroup; ++i) made.append(first + i < pixels ? make(first + i) : Pixel{0, 0, 0});
      put(first, made);
    }
  }

  // change(Pixel) -> Pixel for each where it is.
  template <typename Change>
  __device__ void change(Change change) const {
    for (int first = threadIdx.x * kGroup; first < pixels; first += kThreads * kGroup) {
      Pixel given[kGroup];
      get(first, given);
      Group made;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) made.append(change(given[i]));
      put(first, made);
    }
  }

  // visit(Pixel) for each.
  template <typename Visit>
  __device__ void visit(Visit visit) const {
    for (int pixel = threadIdx.x; pixel < pixels; pixel += kThreads) visit(at(pixel));
  }

  // Four pixels; black where the picture ends.
  __device__ void get(int first, Pixel (&given)[kGroup]) const {
    if (words && first + kGroup <= pixels) {
      const auto* word = reinterpret_cast<const unsigned*>(from + 3 * first);
      const unsigned a = word[0], b = word[1], c = word[2];
      given[0] = {int(a & 255), int(a >> 8 & 255), int(a >> 16 & 255)};
      given[1] = {int(a >> 24), int(b & 255), int(b >> 8 & 255)};
      given[2] = {int(b >> 16 & 255), int(b >> 24), int(c & 255)};
      given[3] = {int(c >> 8 & 255), int(c >> 16 & 255), int(c >> 24)};
      return;
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) given[i] = first + i < pixels ? at(first + i) : Pixel{0, 0, 0};
  }

  __device__ void put(int first, const Group& made) const {
    if (words && first + kGroup <= pixels) {
      auto* word = reinterpret_cast<unsigned*>(to + 3 * first);
      word[0] = made.word[0], word[1] = made.word[1], word[2] = made.word[2];
      return;
    }
#pragma unroll
    for (int i = 0; i < 3 * kGroup; ++i)
      if (first + i / 3 < pixels) to[3 * first + i] = static_cast<unsigned char>(made.word[i / 4] >> 8 * (i % 4));
  }
};

}  // namespace rand_augment
