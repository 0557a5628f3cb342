// Two generators of random numbers: the legacy Mersenne Twister of the published search, and Philox-4x32-10.
#pragma once

#include <cstdint>
#include <cstring>

#include "both.h"

namespace fractals {

// Matsumoto and Nishimura's MT19937 with NumPy's conversions of its legacy interface.
struct Mersenne {
  static constexpr int kWords = 624, kMiddle = 397;
  uint32_t words[kWords];
  int position;

  static uint32_t twisted(uint32_t upper, uint32_t lower) {
    uint32_t mixed = (upper & 0x80000000u) | (lower & 0x7fffffffu);
    return (mixed >> 1) ^ (-(lower & 1u) & 0x9908b0dfu);
  }

  void refill() {
    for (int i = 0; i < kWords - kMiddle; ++i) words[i] = words[i + kMiddle] ^ twisted(words[i], words[i + 1]);
#pragma GCC ivdep  // words are read 227 places behind, further than any vector is long
    for (int i = kWords - kMiddle; i < kWords - 1; ++i)
      words[i] = words[i + kMiddle - kWords] ^ twisted(words[i], words[i + 1]);
    words[kWords - 1] = words[kMiddle - 1] ^ twisted(words[kWords - 1], words[0]);
    position = 0;
  }

  static uint32_t tempered(uint32_t word) {
    word ^= word >> 11;
    word ^= (word << 7) & 0x9d2c5680u;
    word ^= (word << 15) & 0xefc60000u;
    return word ^ (word >> 18);
  }

  uint32_t next() {
    if (position == kWords) refill();
    return tempered(words[position++]);
  }

  double uniform() {  // in [0, 1), 53 bits of two words
    uint32_t high = next() >> 5, low = next() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
  }

  int below(uint32_t limit, uint32_t mask) {  // by rejection of masked words
    uint32_t value;
    do value = next() & mask;
    while (value >= limit);
    return static_cast<int>(value);
  }

  void skip(int64_t count) {
    while (count > 0) {
      if (position == kWords) refill();
      int64_t here = kWords - position < count ? kWords - position : count;
      position += static_cast<int>(here);
      count -= here;
    }
  }

  // `count` numbers of uniform(), a block of words at a time.
  void uniforms(double* out, int64_t count) {
    while (count > 0) {
      if (kWords - position < 2) {
        *out++ = uniform();
        --count;
        continue;
      }
      int64_t here = (kWords - position) / 2 < count ? (kWords - position) / 2 : count;
      for (int64_t i = 0; i < here; ++i) {
        uint32_t high = tempered(words[position + 2 * i]) >> 5, low = tempered(words[position + 2 * i + 1]) >> 6;
        out[i] = (static_cast<int32_t>(high) * 67108864.0 + static_cast<int32_t>(low)) / 9007199254740992.0;
      }
      position += static_cast<int>(2 * here);
      out += here;
      count -= here;
    }
  }
};

// Ten rounds on one counter; see kernels/_shared/philox.py.
struct Philox {
  uint32_t word[4];

  BOTH static uint32_t high(uint32_t a, uint32_t b) {
    return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
  }

  BOTH Philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      uint32_t h0 = high(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
      uint32_t h1 = high(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
      c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
  }
};

// kLanes counters (first + lane, c1, c2, c3) at once, by loops that a compiler turns into vectors: out[word][lane].
constexpr int kLanes = 16;

inline void philox(uint64_t key, uint32_t first, uint32_t c1, uint32_t c2, uint32_t (&out)[4][kLanes],
                   uint32_t c3 = 0) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  for (int i = 0; i < kLanes; ++i) a[i] = first + i, b[i] = c1, c[i] = c2, d[i] = c3;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      uint64_t even = static_cast<uint64_t>(a[i]) * 0xD2511F53u, odd = static_cast<uint64_t>(c[i]) * 0xCD9E8D57u;
      a[i] = static_cast<uint32_t>(odd >> 32) ^ b[i] ^ k0;
      b[i] = static_cast<uint32_t>(odd);
      c[i] = static_cast<uint32_t>(even >> 32) ^ d[i] ^ k1;
      d[i] = static_cast<uint32_t>(even);
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  std::memcpy(out[0], a, sizeof a);
  std::memcpy(out[1], b, sizeof b);
  std::memcpy(out[2], c, sizeof c);
  std::memcpy(out[3], d, sizeof d);
}

// One of 1 .. 511, nine bits of a 3 x 3 patch, the first the most significant.
BOTH uint32_t mask_of(uint32_t word) { return 1 + static_cast<uint32_t>((static_cast<uint64_t>(word) * 511) >> 32); }

constexpr uint32_t kMasks = 0, kBits = 1;  // the second word of a counter
constexpr int kWordsOfBits = 10;

}  // namespace fractals
