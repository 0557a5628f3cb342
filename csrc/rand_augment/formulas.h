// What a CPU and a GPU compute alike of Pillow's operations; kinds and numbers as in kernels/rand_augment/columns.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "../both.h"

namespace rand_augment {

enum Kind {
  kNone,
  kAutoContrast,
  kEqualize,
  kInvert,
  kRotate,
  kPosterize,
  kSolarize,
  kSolarizeAdd,
  kColor,
  kContrast,
  kBrightness,
  kSharpness,
  kShearX,
  kShearY,
  kTranslateX,
  kTranslateY,
  kMirror,
  kUpsideDown
};
constexpr int kKinds = kUpsideDown + 1, kColumns = 7;  // a kind and six numbers

// What there is not is none.
BOTH int kind_of(double value) {
  const int kind = value >= 0.0 && value < kKinds ? static_cast<int>(value) : 0;
  return kind == value ? kind : kNone;
}

BOTH int whole(double value, int most) { return value >= 1.0 ? (value < most ? static_cast<int>(value) : most) : 0; }

// The bits of a value that posterizing keeps.
BOTH int kept(double bits) { return 256 - (1 << (8 - whole(bits, 8))); }

// The first whole value that is not below the threshold, at most 256.
BOTH int first_inverted(double threshold) {
  return threshold <= 0.0 ? 0 : threshold <= 255.0 ? static_cast<int>(ceil(threshold)) : 256;
}

BOTH int luma(int red, int green, int blue) { return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16; }

// Of 3 x 3 pixels whose sum, the middle one added four times more, is given.
BOTH int smooth(int total) { return (2 * total + 13) / 26; }

BOTH uint8_t blended(int base, int value, float factor) {
  const float start = static_cast<float>(base), mixed = start + factor * (static_cast<float>(value) - start);
  return static_cast<uint8_t>(static_cast<int>(mixed < 0.0f ? 0.0f : mixed > 255.0f ? 255.0f : mixed));
}

// Of a channel that has these lowest and highest values.
BOTH uint8_t stretched(int value, int low, int high) {
  if (high <= low) return static_cast<uint8_t>(value);
  const double scale = 255.0 / (high - low), place = value * scale + -low * scale;
  return static_cast<uint8_t>(place < 0.0 ? 0.0 : place > 255.0 ? 255.0 : place);
}

// Of a channel with so many pixels below the value.
BOTH uint8_t flattened(uint32_t value, uint32_t below, uint32_t step) {
  if (step == 0) return static_cast<uint8_t>(value);
  const uint32_t place = (step / 2 + below) / step;
  return static_cast<uint8_t>(place > 255 ? 255 : place);
}

// An affine map of the places of pixels.
struct Map {
  double a, b, c, d, e, f;

  BOTH explicit Map(const double* n) : a(n[0]), b(n[1]), c(n[2]), d(n[3]), e(n[4]), f(n[5]) {}
  BOTH double across(int x, int y) const { return a * (x + 0.5) + b * (y + 0.5) + c; }
  BOTH double down(int x, int y) const { return d * (x + 0.5) + e * (y + 0.5) + f; }
};

// Along one axis: the pixel before a place, and how far the place lies from its centre to the next one's.
struct Before {
  int pixel;
  double part;

  BOTH explicit Before(double place) {
    const double middle = place - 0.5, start = floor(middle);
    pixel = static_cast<int>(start);
    part = middle - start;
  }
};

BOTH int within(int pixel, int size) { return pixel < 0 ? 0 : pixel < size ? pixel : size - 1; }

// The second of two or four pixels is the one before the place.
template <typename T>
BOTH T between(const T (&v)[2], double part) {
  return v[0] + (v[1] - v[0]) * part;
}

template <typename T>
BOTH T between(const T (&v)[4], double part) {
  const T slope = v[2] - v[0], bend = 2.0 * (v[0] - v[1]) + v[2] - v[3], twist = v[1] - v[0] - v[2] + v[3];
  return v[1] + part * (slope + part * (bend + part * twist));
}

}  // namespace rand_augment
