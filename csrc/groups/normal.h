// Normal numbers from Philox by Box and Muller's formula, by loops that a compiler turns into vectors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../random.h"

namespace groups {

constexpr uint32_t kNoise = 131u << 24;  // the stream
constexpr int kLanes = fractals::kLanes, kNormals = 4 * kLanes;

// log of (word + 1) / 2^24 for 24-bit words: m in [sqrt(1/2), sqrt(2)) beside a power of two, then 2 atanh of
// (m - 1) / (m + 1); the first term left out is 4e-10.
inline float log_of(uint32_t word) {
  const float u = static_cast<float>(static_cast<int32_t>(word + 1)) * 5.9604644775390625e-08f;
  uint32_t raw;
  std::memcpy(&raw, &u, sizeof raw);
  const int32_t shifted = static_cast<int32_t>(raw) - 0x3f3504f3;  // sqrt(1/2)
  const int32_t exponent = shifted >> 23;
  const uint32_t mantissa = static_cast<uint32_t>((shifted & 0x7fffff) + 0x3f3504f3);
  float m;
  std::memcpy(&m, &mantissa, sizeof m);
  const float s = (m - 1.0f) / (m + 1.0f), t = s * s;
  const float series = 1.0f + t * (1.0f / 3 + t * (1.0f / 5 + t * (1.0f / 7 + t * (1.0f / 9))));
  return static_cast<float>(exponent) * 0.69314718f + 2.0f * s * series;
}

struct Turn {
  float cosine, sine;
};

// cos and sin of 2 pi word / 2^24: the nearest quarter of the turn is exact, the rest of it at most pi / 4.
inline Turn turn_of(uint32_t word) {
  const int32_t quarter = static_cast<int32_t>((word + (1u << 21)) >> 22);
  const float x = static_cast<float>(static_cast<int32_t>(word) - (quarter << 22)) * 3.7450704e-07f;
  const float t = x * x;
  const float s = x * (1.0f + t * (-1.0f / 6 + t * (1.0f / 120 + t * (-1.0f / 5040 + t * (1.0f / 362880)))));
  const float c = 1.0f + t * (-0.5f + t * (1.0f / 24 + t * (-1.0f / 720 + t * (1.0f / 40320 - t * (1.0f / 3628800)))));
  const float cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
  return {(quarter + 1) & 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}

// Numbers 64 * chunk .. of one sample.
inline void normals(uint64_t key, uint32_t step, uint64_t sample, int64_t chunk, float* __restrict out) {
  uint32_t words[4][kLanes];
  const uint32_t first = kNoise + static_cast<uint32_t>(chunk * kLanes);
  fractals::philox(key, first, static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32), words, step);
  float found[4][kLanes];
  for (int pair = 0; pair < 4; pair += 2)
    for (int i = 0; i < kLanes; ++i) {
      const float radius = std::sqrt(-2.0f * log_of(words[pair][i] >> 8));
      const Turn turn = turn_of(words[pair + 1][i] >> 8);
      found[pair][i] = radius * turn.cosine;
      found[pair + 1][i] = radius * turn.sine;
    }
  for (int i = 0; i < kLanes; ++i)
    for (int word = 0; word < 4; ++word) out[4 * i + word] = found[word][i];
}

}  // namespace groups
