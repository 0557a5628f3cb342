// Pillow's Gaussian blur of one image on a CPU: row after row, so that what is between the passes stays in the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pixel.h"

namespace views {

constexpr int kPasses = 3;

// out[i] from five samples around each of those that start at near[2]; the outermost only count for a wide box.
template <bool kWide>
void box_row(const Box& box, const uint8_t* const (&near)[5], uint8_t* __restrict out, int64_t count) {
  const uint8_t *a = near[0], *b = near[1], *c = near[2], *d = near[3], *e = near[4];
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t beside = b[i] + d[i];
    out[i] = static_cast<uint8_t>(kWide ? boxed(box, c[i] + beside, a[i] + e[i]) : boxed(box, c[i], beside));
  }
}

template <bool kWide>
class Blur {
  static constexpr int kReach = kWide ? 2 : 1, kKept = 5, kPad = 6;  // bytes of two pixels
  const Box box;
  const int64_t height, row;  // bytes of a row
  std::vector<uint8_t> lines, rings;

  uint8_t* line(int number) { return lines.data() + number * (row + 2 * kPad) + kPad; }
  uint8_t* kept(int pass, int64_t y) { return rings.data() + (pass * kKept + y % kKept) * row; }

  void repeat_ends(uint8_t* pixels) const {
    for (int i = 1; i <= 2; ++i) {
      std::memcpy(pixels - 3 * i, pixels, 3);
      std::memcpy(pixels + row + 3 * (i - 1), pixels + row - 3, 3);
    }
  }

  void along(const uint8_t* from, uint8_t* to) {
    std::memcpy(line(0), from, row);
    for (int pass = 0; pass < kPasses; ++pass) {
      uint8_t* x = line(pass % 2);
      repeat_ends(x);
      box_row<kWide>(box, {x - 6, x - 3, x, x + 3, x + 6}, pass + 1 < kPasses ? line((pass + 1) % 2) : to, row);
    }
  }

  void across(int pass, int64_t y, uint8_t* to) {
    const uint8_t* near[5];
    for (int i = 0; i < 5; ++i)
      near[i] = kept(pass, std::clamp<int64_t>(y + std::clamp(i - 2, -kReach, kReach), 0, height - 1));
    box_row<kWide>(box, {near[0], near[1], near[2], near[3], near[4]}, to, row);
  }

 public:
  Blur(const Box& box, int64_t height, int64_t width)
      : box(box), height(height), row(3 * width), lines(2 * (row + 2 * kPad)), rings(kPasses * kKept * row) {}

  // A row of each pass as soon as those below it in reach are there; `to` may be `from`.
  void run(const uint8_t* from, uint8_t* to) {
    for (int64_t y = 0; y < height + kPasses * kReach; ++y) {
      if (y < height) along(from + y * row, kept(0, y));
      for (int pass = 0; pass < kPasses; ++pass) {
        const int64_t done = y - (pass + 1) * kReach;
        if (done >= 0 && done < height) across(pass, done, pass + 1 < kPasses ? kept(pass + 1, done) : to + done * row);
      }
    }
  }
};

inline void blur(const Box& box, const uint8_t* from, uint8_t* to, int64_t height, int64_t width) {
  if (box.wide)
    Blur<true>(box, height, width).run(from, to);
  else
    Blur<false>(box, height, width).run(from, to);
}

}  // namespace views
