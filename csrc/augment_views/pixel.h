// What happens to one pixel, in the same arithmetic on CPUs and GPUs; see kernels/augment_views/README.md.
#pragma once

#include <cstdint>

#include "../both.h"

namespace views {

template <typename T>
BOTH T least(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
BOTH T most(T a, T b) {
  return a > b ? a : b;
}

// Numbers from 0 to 2^23 - 1 to fp32 and back, cut off. A GPU converts at a fraction of the rate at which it adds.
BOTH float real(int number) {
#ifdef __CUDA_ARCH__
  return __int_as_float(0x4b000000 | number) - 8388608.0f;
#else
  return static_cast<float>(number);
#endif
}

BOTH int floored(float number) {
#ifdef __CUDA_ARCH__
  return __float_as_int(__fadd_rz(number, 8388608.0f)) & 0x7fffff;
#else
  return static_cast<int>(number);
#endif
}

BOTH float difference(int from, int taken) {  // exact either way
#ifdef __CUDA_ARCH__
  return real(from) - real(taken);
#else
  return static_cast<float>(from - taken);
#endif
}

BOTH float quotient(float dividend, float divisor) {
#ifdef __CUDA_ARCH__
  return __fdividef(dividend, divisor);  // within two units in the last place
#else
  return dividend / divisor;
#endif
}

BOTH int luma(int red, int green, int blue) { return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16; }

BOTH int64_t rounded_mean(int64_t total, int64_t count) { return (2 * total + count) / (2 * count); }

BOTH int blended(int base, int value, float factor) {
  const float mixed = real(base) + factor * difference(value, base);
  return floored(mixed > 0.0f ? mixed < 255.0f ? mixed : 255.0f : 0.0f);
}

// Hue and saturation are floors of rationals: of 85 n / (2 spread) and of 255 spread / high. The nearest to an integer
// without being one is 1/510 away, and what rounding adds is below 1/10000, so that 1/1024 more makes the floor exact.
constexpr float kNudge = 1.0f / 1024;

// Hues that are integers exactly, and yet one lower in Pillow, whose rounded sixths of the circle lie below them: found
// by going through all differences and spreads, and checked with all colours.
BOTH bool rounds_down(uint8_t hue) {
  const uint8_t rest = hue & 3, from_1 = hue - 1, from_88 = hue - 88, from_129 = hue - 129, from_176 = hue - 176;
  return (from_1 < 31) | ((rest == 0) & (from_88 <= 16)) | ((rest == 1) & (from_129 <= 80)) |
         ((rest == 3) & (from_129 <= 18)) | (from_176 == 0) | (from_176 == 8);
}

// 42.5 times the sixths of the circle from red on, at most 255, nudged.
BOTH float hue_of(float apart, float sixths, int spread) {
  return 42.5f * (sixths + quotient(apart, real(most(spread, 1)))) + kNudge;
}

BOTH bool whole(float nudged) { return nudged - real(floored(nudged)) < 2 * kNudge; }

BOTH int saturation_of(int spread, int high) {
  return floored(quotient(real(255 * spread), real(most(high, 1))) + kNudge);
}

// How far a channel, whose own hue is `centre`, is from a hue: 0 to 85; both in 510ths of the circle.
BOTH int distance(int hue, int centre) {
  const int apart = hue > centre ? hue - centre : centre - hue;
  return most(least(least(apart, 510 - apart) - 85, 85), 0);
}

// round(value * (1 - saturation / 255 * distance / 85)); the product is an integer below 2^24, so exact in fp32, and
// never nearer than 1/43350 to a half, so that the division may round.
BOTH int channel(int value, int faded) {  // faded: saturation * distance
  return value - floored(real(value * faded) * (1.0f / 21675) + 0.5f);
}

constexpr int kCentres[3] = {0, 170, 340};  // of red, green and blue

// A box of fractional radius in 24-bit weights: `inside` for the centre, and up to one pixel beside it if `wide`.
struct Box {
  uint32_t inside, edge;
  bool wide;
};

// round(sum of weight * pixel / 2^24); the weights add up to at most 2^24, so the sum fits.
BOTH uint32_t boxed(const Box& box, uint32_t inner, uint32_t outer) {
  return (box.inside * inner + box.edge * outer + (1u << 23)) >> 24;
}

}  // namespace views
