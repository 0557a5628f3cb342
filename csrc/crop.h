// A crop as Pillow resizes it: which pixels of an axis make one of the result, and with what weights, to the bit.
//
// Weights are computed in double precision in this order of operations, so contraction to fused multiply-adds must be
// off. Pillow keeps the sides of a box in single precision, and so does this.
#pragma once

#include <cstdint>

#include "both.h"

namespace crop {

constexpr int kBits = 22;  // of a weight's fraction: 8 of a pixel, 2 for what overshoots, and these fill 32
constexpr int32_t kHalf = 1 << (kBits - 1);

enum Filter { kBilinear, kBicubic };

// uint8 RGB; a channel follows another directly.
struct Picture {
  const uint8_t* pixels;
  int64_t row, step;  // bytes to the next row, and to the next pixel
  int32_t height, width;
};

struct Box {
  double left, top, right, bottom;
};

// Pixels of an axis that one of the result is made of.
struct Span {
  uint16_t first, count;
  BOTH int end() const { return first + count; }
};

BOTH double reach(Filter filter) { return filter == kBilinear ? 1.0 : 2.0; }

BOTH double weight(Filter filter, double x) {
  if (x < 0.0) x = -x;
  if (filter == kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

// Along one axis of a picture of `side` pixels, the part from low to high becomes `size` pixels. The filter reaches
// beyond that part where the picture goes on.
struct Axis {
  double low, scale, support, shrink;
  int side;
  Filter filter;

  BOTH Axis(double from, double to, int side, int size, Filter filter) : side(side), filter(filter) {
    const float first = static_cast<float>(from), last = static_cast<float>(to);
    low = first;
    scale = static_cast<double>(last - first) / size;
    const double stretch = scale < 1.0 ? 1.0 : scale;
    support = reach(filter) * stretch;
    shrink = 1.0 / stretch;
  }

  BOTH double center(int i) const { return low + (i + 0.5) * scale; }

  // Truncated, within the picture; 0 for what is no number.
  BOTH int within(double place) const {
    if (place >= side) return side;
    return place > 0.0 ? static_cast<int>(place) : 0;
  }

  BOTH Span span(int i) const {
    const int first = within(center(i) - support + 0.5), end = within(center(i) + support + 0.5);
    return {static_cast<uint16_t>(first), static_cast<uint16_t>(end > first ? end - first : 0)};
  }

  // The weights of a span, in fixed point; they add up to about 1 << kBits.
  BOTH void taps(int i, Span span, int32_t* out) const {
    const double middle = center(i);
    double sum = 0.0;
    for (int k = 0; k < span.count; ++k) sum += weight(filter, (span.first + k - middle + 0.5) * shrink);
    for (int k = 0; k < span.count; ++k) {
      const double share = weight(filter, (span.first + k - middle + 0.5) * shrink);
      const double tap = (sum != 0.0 ? share / sum : share) * (1 << kBits);
      out[k] = static_cast<int32_t>(tap < 0.0 ? tap - 0.5 : tap + 0.5);
    }
  }
};

// Pillow 13 starts with the columns of a picture that loses much more of its height than of its width.
BOTH bool columns_first(int height, int width, int size) {
  return height > size && height - size > 2 * (static_cast<int64_t>(width) - size);
}

}  // namespace crop
