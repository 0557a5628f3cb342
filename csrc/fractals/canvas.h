// Points and patches on a canvas of one byte a pixel, the canvas as bits, and pictures drawn from the bits.
#pragma once

#include "orbit.h"
#include "../random.h"

namespace fractals {

constexpr uint8_t kLit = 127;
constexpr int kHues = 128;

enum Style { kPatchGray, kPatchColor, kPointGray, kPointColor };

inline bool gray(int style) { return style == kPatchGray || style == kPointGray; }
inline bool patches(int style) { return style == kPatchGray || style == kPatchColor; }

// A point's ink: the lit gray, or which colour.
inline uint8_t ink_of(int64_t point, int style) {
  return gray(style) ? kLit : static_cast<uint8_t>(point % kHues + 1);
}

inline void paint_points(int64_t count, int style, Scratch& s) {
  uint8_t* canvas = s.canvas.data();
  const int32_t* pixel = s.pixel.data();
  if (gray(style))
    for (int64_t i = 0; i < count; ++i) canvas[pixel[i]] = kLit;
  else
    for (int64_t i = 0; i < count; ++i) canvas[pixel[i]] = ink_of(i, style);
}

// Three pixels of a patch's row as the low bytes of a word, by its three bits, the left one the most significant.
constexpr uint32_t kSpread[8] = {0, 0x10000, 0x100, 0x10100, 1, 0x10001, 0x101, 0x10101};

inline void paint_row(uint8_t* at, uint32_t three, uint32_t ink) {
  const uint32_t row = kSpread[three] * ink;
  const uint16_t left = static_cast<uint16_t>(row);
  std::memcpy(at, &left, 2);
  at[2] = static_cast<uint8_t>(row >> 16);
}

// The 3 x 3 pixels right of and below a point; upside down that is above.
inline void paint_patch(uint8_t* canvas, int32_t pixel, int64_t size, uint32_t mask, uint32_t ink) {
  uint8_t* at = canvas + pixel + 1 - size;
  paint_row(at, mask >> 6, ink);
  paint_row(at - size, mask >> 3 & 7, ink);
  paint_row(at - 2 * size, mask & 7, ink);
}

inline void paint_masks(int64_t count, int64_t size, int style, uint64_t seed, Scratch& s) {
  uint8_t* canvas = s.canvas.data();
  const int32_t* pixel = s.pixel.data();
  uint32_t words[4][kLanes], masks[4 * kLanes];
  for (int64_t start = 0; start < count; start += 4 * kLanes) {
    philox(seed, static_cast<uint32_t>(start / 4), kMasks, 0, words);
    for (int i = 0; i < 4 * kLanes; ++i) masks[i] = mask_of(words[i % 4][i / 4]);
    const int64_t here = std::min<int64_t>(4 * kLanes, count - start);
    for (int64_t i = 0; i < here; ++i)
      paint_patch(canvas, pixel[start + i], size, masks[i], gray(style) ? kLit : ink_of(start + i, style));
  }
}

// The canvas covered by a patch for every point that it holds.
inline void dilate(int64_t size, Scratch& s) {
  uint8_t *__restrict canvas = s.canvas.data(), *__restrict rows = s.rows.data();
  const int64_t pixels = size * size;
  std::fill(rows, rows + 3, 0);
  std::fill(rows + pixels, rows + pixels + 3 * size, 0);
  for (int64_t i = 3; i < pixels; ++i) rows[i] = canvas[i - 1] | canvas[i - 2] | canvas[i - 3];
  for (int64_t i = 0; i < pixels; ++i) canvas[i] = rows[i + size] | rows[i + 2 * size] | rows[i + 3 * size];
}

inline void cover(int64_t count, int64_t size, int style, Scratch& s) {
  if (style == kPatchGray) {
    dilate(size, s);
  } else if (style == kPatchColor) {
    std::fill(s.canvas.begin(), s.canvas.end(), 0);
    for (int64_t i = 0; i < count; ++i) paint_patch(s.canvas.data(), s.pixel[i], size, 511, ink_of(i, style));
  }
}

inline void pack(const uint8_t* canvas, int64_t pixels, uint8_t* bits) {
  for (int64_t byte = 0; byte < pixels / 8; ++byte) {
    uint64_t eight;
    std::memcpy(&eight, canvas + 8 * byte, 8);
    bits[byte] = static_cast<uint8_t>(((eight & 0x0101010101010101u) * 0x0102040810204080u) >> 56);
  }
  if (pixels % 8) {
    uint8_t last = 0;
    for (int64_t i = pixels / 8 * 8; i < pixels; ++i) last |= static_cast<uint8_t>((canvas[i] & 1) << (i % 8));
    bits[pixels / 8] = last;
  }
}

// Bits that are 1 with probability 1/2 + 2^-10, as many as 32 * words.
inline void bernoulli(uint64_t seed, int64_t words, uint32_t* out) {
  uint32_t first[4][kLanes], rare[4][kLanes], other[4][kLanes];
  for (int64_t start = 0; start < words; start += 4 * kLanes) {
    uint32_t counter = static_cast<uint32_t>(start / 4);
    philox(seed, counter, kBits, 0, first);
    philox(seed, counter, kBits, 1, rare);
    for (int n = 2; n < kWordsOfBits; ++n) {
      philox(seed, counter, kBits, static_cast<uint32_t>(n), other);
      for (int w = 0; w < 4; ++w)
        for (int lane = 0; lane < kLanes; ++lane) rare[w][lane] &= other[w][lane];
    }
    int64_t here = std::min<int64_t>(4 * kLanes, words - start);
    for (int64_t i = 0; i < here; ++i) out[start + i] = first[i % 4][i / 4] | rare[i % 4][i / 4];
  }
}

// One byte for each bit: `lit` where it is set.
inline void unpack(const uint8_t* bits, int64_t pixels, uint8_t lit, uint8_t* out) {
  for (int64_t byte = 0; byte < (pixels + 7) / 8; ++byte) {
    uint64_t eight = ((bits[byte] * 0x0101010101010101u) & 0x8040201008040201u);
    eight = ((eight + 0x7f7f7f7f7f7f7f7fu) | eight) >> 7 & 0x0101010101010101u;
    eight *= lit;
    std::memcpy(out + 8 * byte, &eight, static_cast<size_t>(std::min<int64_t>(8, pixels - 8 * byte)));
  }
}

inline void colour(const uint8_t* ink, int64_t pixels, const uint8_t* palette, uint8_t* out) {
  for (int64_t i = 0; i < pixels; ++i) std::memcpy(out + 3 * i, palette + 3 * ink[i], 3);
}

}  // namespace fractals
