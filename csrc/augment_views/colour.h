// Steps that change one pixel by itself, on a thousand pixels at once, by loops that a compiler turns into vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "row.h"

namespace views {

constexpr int kPixels = 1024;  // the planes, and what a hue needs, stay in the nearest cache

struct Block {
  uint8_t planes[3][kPixels];

  void load(const uint8_t* __restrict from, int count) {
    if (count < kPixels) std::memset(planes, 0, sizeof planes);
    for (int i = 0; i < count; ++i)
      for (int c = 0; c < 3; ++c) planes[c][i] = from[3 * i + c];
  }

  void store(uint8_t* __restrict to, int count) const {
    for (int i = 0; i < count; ++i)
      for (int c = 0; c < 3; ++c) to[3 * i + c] = planes[c][i];
  }

  void find_luma(uint8_t* __restrict out) const {
    for (int i = 0; i < kPixels; ++i) out[i] = static_cast<uint8_t>(luma(planes[0][i], planes[1][i], planes[2][i]));
  }

  int64_t sum_of_luma() const {
    uint8_t gray[kPixels];
    find_luma(gray);
    int sum = 0;
    for (int i = 0; i < kPixels; ++i) sum += gray[i];
    return sum;
  }

  void gray() {
    find_luma(planes[0]);
    std::memcpy(planes[1], planes[0], kPixels);
    std::memcpy(planes[2], planes[0], kPixels);
  }

  void saturate(float factor) {
    uint8_t base[kPixels];
    find_luma(base);
    for (auto& plane : planes)
      for (int i = 0; i < kPixels; ++i) plane[i] = static_cast<uint8_t>(blended(base[i], plane[i], factor));
  }

  void blend(int base, float factor) {
    for (auto& plane : planes)
      for (int i = 0; i < kPixels; ++i) plane[i] = static_cast<uint8_t>(blended(base, plane[i], factor));
  }

  void turn_hue(int shift) {
    Colours colours;
    colours.find(planes);
    for (int i = 0; i < kPixels; ++i) {
      const uint8_t hue = colours.hue[i], down = colours.exact[i] & rounds_down(hue);
      colours.turned[i] = static_cast<int16_t>(2 * static_cast<uint8_t>(hue - down + shift));
    }
    for (int c = 0; c < 3; ++c) colours.paint(kCentres[c], planes[c]);
  }

  struct Colours {
    uint8_t hue[kPixels], exact[kPixels], high[kPixels];
    int16_t apart[kPixels], sixths[kPixels], spread[kPixels], saturation[kPixels], turned[kPixels];

    void find(const uint8_t (&planes)[3][kPixels]) {
      for (int i = 0; i < kPixels; ++i) {
        const int16_t r = planes[0][i], g = planes[1][i], b = planes[2][i];
        const int16_t above = most(r, most(g, b)), below = least(r, least(g, b));
        const bool red = r == above, green = g == above;
        apart[i] = static_cast<int16_t>(red ? g - b : green ? b - r : r - g);
        sixths[i] = red ? (g < b ? 6 : 0) : green ? 2 : 4;
        spread[i] = static_cast<int16_t>(above - below);
        high[i] = static_cast<uint8_t>(above);
      }
      for (int i = 0; i < kPixels; ++i) {
        const float found = hue_of(static_cast<float>(apart[i]), static_cast<float>(sixths[i]), spread[i]);
        hue[i] = static_cast<uint8_t>(static_cast<int>(found));
        exact[i] = whole(found);
      }
      for (int i = 0; i < kPixels; ++i) saturation[i] = static_cast<int16_t>(saturation_of(spread[i], high[i]));
    }

    void paint(int centre, uint8_t* __restrict out) const {
      for (int i = 0; i < kPixels; ++i) {
        const int16_t way = static_cast<int16_t>(turned[i] > centre ? turned[i] - centre : centre - turned[i]);
        const int16_t shorter = least<int16_t>(way, 510 - way) - 85;
        const int16_t far = most<int16_t>(least<int16_t>(shorter, 85), 0);
        out[i] = static_cast<uint8_t>(channel(high[i], static_cast<int16_t>(saturation[i] * far)));
      }
    }
  };

  void run(unsigned steps, const Row& row, int mean) {
    for (; steps; steps >>= 4) switch (steps & 15) {
        case kBrightness: blend(0, row.factors[0]); break;
        case kContrast: blend(mean, row.factors[1]); break;
        case kSaturation: saturate(row.factors[2]); break;
        case kHue: turn_hue(row.shift); break;
        default: gray();
      }
  }
};

// Steps on all pixels from one place to another or the same; returns the sum of the lumas if that is asked for.
inline int64_t run_all(const uint8_t* from, uint8_t* to, int64_t pixels, unsigned steps, const Row& row, int mean,
                       bool sums) {
  Block block;
  int64_t sum = 0;
  for (int64_t at = 0; at < pixels; at += kPixels) {
    const int count = static_cast<int>(std::min<int64_t>(kPixels, pixels - at));
    block.load(from + 3 * at, count);
    block.run(steps, row, mean);
    if (sums) sum += block.sum_of_luma();
    if (steps) block.store(to + 3 * at, count);
  }
  return sum;
}

}  // namespace views
