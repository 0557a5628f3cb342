// Blocks of pixels, drawn one by one until enough is covered; see kernels/groups/rule.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../random.h"

namespace groups {

constexpr uint32_t kBlocks = 130u << 24;  // the stream

struct Rule {
  int64_t height, width, align, tallest, widest, draws, centered, stride;

  int64_t down() const { return height / align; }
  int64_t across() const { return width / align; }
  int64_t units() const { return down() * across(); }
};

struct Span {
  int64_t first, end;
};

inline int64_t below(uint32_t word, int64_t limit) {  // by the upper 24 bits
  return static_cast<int64_t>(word >> 8) * limit >> 24;
}

inline int64_t nearest_units(int64_t pixels, int64_t align) {  // half to even
  const int64_t whole = pixels / align, twice = pixels % align * 2;
  return whole + (twice > align || (twice == align && whole % 2 == 1));
}

inline Span span(uint32_t place, uint32_t extent, int64_t length, int64_t most, const Rule& rule) {
  const int64_t align = rule.align;
  const int64_t pixels = align + below(extent, std::max<int64_t>(1, most - align));
  if (rule.centered) {
    const int64_t size = nearest_units(pixels, align);
    const int64_t first = (2 * below(place, length) + 1 + (size + 1) * align) / (2 * align) - size;
    return {std::max<int64_t>(0, first), std::min(length / align, first + size)};
  }
  const int64_t first = below(place, std::max<int64_t>(1, length - align)) / align;
  return {first, first + nearest_units(std::min(pixels, length - first * align), align)};
}

// Units as bits, 64 to a word, each row in words of its own.
struct Grid {
  int64_t words, covered = 0;
  std::vector<uint64_t> bits;

  explicit Grid(const Rule& rule) : words((rule.across() + 63) / 64), bits(rule.down() * words) {}

  void cover(Span rows, Span columns) {
    for (int64_t word = columns.first / 64; word * 64 < columns.end; ++word) {
      const int64_t from = std::max<int64_t>(0, columns.first - word * 64);
      const int64_t to = std::min<int64_t>(64, columns.end - word * 64);
      const uint64_t some = (~uint64_t{0} >> (64 - (to - from))) << from;
      for (int64_t row = rows.first; row < rows.end; ++row) {
        uint64_t& here = bits[row * words + word];
        covered += __builtin_popcountll(some & ~here);
        here |= some;
      }
    }
  }

  void row(int64_t number, uint8_t* flags) const;  // a byte, 0 or 1, for each unit
};

inline Grid drawn(const Rule& rule, uint64_t key, uint32_t step, uint64_t sample, double target) {
  Grid grid(rule);
  const double needed = target * static_cast<double>(rule.units());
  auto words = [&](int64_t block) {
    return fractals::Philox(key, kBlocks + static_cast<uint32_t>(block), static_cast<uint32_t>(sample),
                            static_cast<uint32_t>(sample >> 32), step);
  };
  for (int64_t block = 0; block < rule.draws && grid.covered < needed; ++block) {
    const fractals::Philox random = words(block);
    grid.cover(span(random.word[0], random.word[2], rule.height, rule.tallest, rule),
               span(random.word[1], random.word[3], rule.width, rule.widest, rule));
  }
  if (!(grid.covered < needed)) return grid;
  int64_t unit = below(words(rule.draws).word[0], rule.units());
  for (int64_t turn = 0; turn < rule.units() && grid.covered < needed; ++turn) {
    const int64_t row = unit / rule.across(), column = unit % rule.across();
    grid.cover({row, row + 1}, {column, column + 1});
    unit = (unit + rule.stride) % rule.units();
  }
  return grid;
}

// Eight booleans as the bits of a byte, the first the lowest, and back.
inline uint8_t packed(const uint8_t* flags) {
  uint64_t eight;
  std::memcpy(&eight, flags, 8);
  return static_cast<uint8_t>(eight * 0x0102040810204080u >> 56);
}

inline void unpacked(uint8_t byte, uint8_t* flags) {
  const uint64_t each = (byte * 0x0101010101010101u) & 0x8040201008040201u;  // bit i in byte i, then as 0 or 1
  const uint64_t eight = ((each + 0x7f7f7f7f7f7f7f7fu) | each) >> 7 & 0x0101010101010101u;
  std::memcpy(flags, &eight, 8);
}

inline void Grid::row(int64_t number, uint8_t* flags) const {
  for (int64_t word = 0; word < words; ++word)
    for (int64_t byte = 0; byte < 8; ++byte)
      unpacked(static_cast<uint8_t>(bits[number * words + word] >> (8 * byte)), flags + word * 64 + byte * 8);
}

// The mask in both kinds: a byte, 0 or 1, for each pixel, and rows of 32-bit words, little-endian.
inline void expand(const Grid& grid, const Rule& rule, uint8_t* mask, uint8_t* bitmap) {
  const int64_t bytes = (rule.width + 31) / 32 * 4;
  std::vector<uint8_t> units(grid.words * 64), row(std::max(bytes * 8, grid.words * 64));
  for (int64_t y = 0; y < rule.down(); ++y) {
    grid.row(y, rule.align == 1 ? row.data() : units.data());
    if (rule.align > 1)
      for (int64_t x = 0; x < rule.across(); ++x) std::memset(row.data() + x * rule.align, units[x], rule.align);
    uint8_t* first = bitmap + y * rule.align * bytes;
    for (int64_t i = 0; i < bytes; ++i) first[i] = packed(row.data() + i * 8);
    for (int64_t i = 0; i < rule.align; ++i) {
      std::memcpy(mask + (y * rule.align + i) * rule.width, row.data(), rule.width);
      if (i) std::memcpy(first + i * bytes, first, bytes);
    }
  }
}

}  // namespace groups
