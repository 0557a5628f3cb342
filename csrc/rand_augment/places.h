// Pixels as vectors of four on a CPU, and where those of a row come from.
#pragma once

#include <cstring>
#include <vector>

#include "formulas.h"

namespace rand_augment {

typedef double Four __attribute__((vector_size(32)));
typedef int32_t FourWhole __attribute__((vector_size(16)));
constexpr FourWhole kPlaces = {0, 8, 16, 24};
constexpr int kAfter = 16;  // bytes behind a buffer that may be read, and written before a neighbour's turn comes

// A pixel and the byte after it.
inline Four read(const uint8_t* pixel) {
  int32_t bytes;
  std::memcpy(&bytes, pixel, sizeof bytes);
  const FourWhole same = {bytes, bytes, bytes, bytes};
  return __builtin_convertvector(same >> kPlaces & 255, Four);
}

// A pixel, and 0 to the byte after it.
inline void write(Four value, uint8_t* pixel) {
  const FourWhole whole = __builtin_convertvector(value, FourWhole) << kPlaces;
  const int32_t bytes = whole[0] | whole[1] | whole[2];
  std::memcpy(pixel, &bytes, sizeof bytes);
}

constexpr int kBeyond = -2;  // no pixel comes before a place in the picture by more than one

// Where the pixels of a row come from.
struct Places {
  std::vector<int32_t> left, top;
  std::vector<double> across, down;  // from there to the next

  explicit Places(int width) : left(width), top(width), across(width), down(width) {}

  void find(const Map& map, int y, int width, int height) {
    int32_t *__restrict first = left.data(), *__restrict above = top.data();
    double *__restrict right = across.data(), *__restrict below = down.data();
    for (int x = 0; x < width; ++x) {
      const double u = map.across(x, y), v = map.down(x, y);
      const bool inside = (u >= 0.0) & (u < width) & (v >= 0.0) & (v < height);
      const Before column(inside ? u : 0.5), row(inside ? v : 0.5);
      first[x] = inside ? column.pixel : kBeyond;
      above[x] = row.pixel;
      right[x] = column.part;
      below[x] = row.part;
    }
  }
};

}  // namespace rand_augment
