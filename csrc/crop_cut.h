// One crop on one thread. Up to sixteen rows are resized at once: a vector holds a pixel of each as four bytes, and one
// weight serves all of them. Columns are resized along whole rows, four bytes a lane too.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "crop.h"

namespace crop {

// As wide as the processor's: compilers take wider ones apart badly. So they do where bytes become words, which is why
// bytes are masked out of words instead.
#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kRows = kBytes / 4;
typedef uint32_t Words __attribute__((vector_size(kBytes)));
typedef int32_t Sums __attribute__((vector_size(kBytes)));

// Of one byte of each lane over several vectors, weighted.
template <int kByte>
inline void add(Sums& sums, Words words, int32_t tap) {
  sums += reinterpret_cast<Sums>(words >> 8 * kByte & 255u) * tap;
}

template <int kByte>
inline Words rounded(Sums sums) {
  sums >>= kBits;
  sums = sums < 0 ? Sums{} : sums;
  sums = sums > 255 ? Sums{} + 255 : sums;
  return reinterpret_cast<Words>(sums) << 8 * kByte;
}

inline Words load(const uint8_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

// Spans and weights of one axis.
class Taps {
 public:
  void set(const Axis& axis, int size) {
    spans.resize(size);
    most = 0;
    for (int i = 0; i < size; ++i) most = std::max<int>(most, (spans[i] = axis.span(i)).count);
    weights.assign(static_cast<size_t>(size) * most, 0);
    for (int i = 0; i < size; ++i) axis.taps(i, spans[i], weights.data() + static_cast<size_t>(i) * most);
  }
  const int32_t* of(int i) const { return weights.data() + static_cast<size_t>(i) * most; }
  int first() const { return spans.front().first; }
  int end() const { return spans.back().end(); }

  std::vector<Span> spans;
  int most = 0;

 private:
  std::vector<int32_t> weights;
};

// Rows of pixels, `step` bytes apart, as one vector for each pixel. What follows the last is not read.
inline void interleave(const uint8_t* const* rows, int64_t step, int count, uint8_t* vectors) {
  for (int x = 0; x + 1 < count; ++x)
    for (int r = 0; r < kRows; ++r) std::memcpy(vectors + kBytes * x + 4 * r, rows[r] + step * x, 4);
  for (int r = 0; r < kRows; ++r) std::memcpy(vectors + kBytes * (count - 1) + 4 * r, rows[r] + step * (count - 1), 3);
}

// The other way around, three bytes a pixel.
inline void separate(const uint8_t* vectors, int count, uint8_t* const* rows) {
  for (int r = 0; r < kRows; ++r) {
    const uint8_t* from = vectors + 4 * r;
    for (int x = 0; x + 1 < count; ++x) std::memcpy(rows[r] + 3 * x, from + kBytes * x, 4);
    std::memcpy(rows[r] + 3 * (count - 1), from + kBytes * (count - 1), 3);
  }
}

// Interleaved rows resized.
inline void across(const uint8_t* vectors, const Taps& taps, uint8_t* out) {
  const int size = static_cast<int>(taps.spans.size()), origin = taps.first();
  for (int i = 0; i < size; ++i) {
    const int32_t* tap = taps.of(i);
    const uint8_t* from = vectors + kBytes * (taps.spans[i].first - origin);
    Sums red = Sums{} + kHalf, green = red, blue = red;
    for (int k = 0; k < taps.most; ++k) {  // the weights behind the span are 0; a loop of one length is foreseen
      const Words pixels = load(from + kBytes * k);
      add<0>(red, pixels, tap[k]), add<1>(green, pixels, tap[k]), add<2>(blue, pixels, tap[k]);
    }
    const Words pixels = rounded<0>(red) | rounded<1>(green) | rounded<2>(blue);
    std::memcpy(out + kBytes * i, &pixels, sizeof pixels);
  }
}

// A vector's bytes of one row, out of those of several.
inline void down(const uint8_t* const* rows, int64_t at, const int32_t* tap, int count, uint8_t* out) {
  Sums a = Sums{} + kHalf, b = a, c = a, d = a;
  for (int k = 0; k < count; ++k) {
    const Words words = load(rows[k] + at);
    add<0>(a, words, tap[k]), add<1>(b, words, tap[k]), add<2>(c, words, tap[k]), add<3>(d, words, tap[k]);
  }
  const Words words = rounded<0>(a) | rounded<1>(b) | rounded<2>(c) | rounded<3>(d);
  std::memcpy(out + at, &words, sizeof words);
}

// A whole row of so many bytes.
inline void down(const uint8_t* const* rows, const int32_t* tap, int count, int64_t bytes, uint8_t* out) {
  for (int64_t at = 0; at + kBytes <= bytes; at += kBytes) down(rows, at, tap, count, out);
  if (bytes >= kBytes) return down(rows, bytes - kBytes, tap, count, out);  // some of them again
  for (int64_t at = 0; at < bytes; ++at) {
    int32_t sum = kHalf;
    for (int k = 0; k < count; ++k) sum += tap[k] * rows[k][at];
    out[at] = static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255));
  }
}

// Crops of one size, one after another; what it needs for one serves the next.
class Cutter {
 public:
  Cutter(int size, Filter filter) : size(size), filter(filter), resized(static_cast<size_t>(size) * kBytes) {}

  void operator()(const Picture& picture, const Box& box, uint8_t* out) {
    x.set(Axis(box.left, box.right, picture.width, size, filter), size);
    y.set(Axis(box.top, box.bottom, picture.height, size, filter), size);
    columns = x.end() - x.first();
    vectors.resize(static_cast<size_t>(columns + x.most) * kBytes);
    sources.resize(y.most);
    columns_first(picture.height, picture.width, size) ? by_columns(picture, out) : by_rows(picture, out);
  }

 private:
  static const uint8_t* pixel(const Picture& picture, int row, int column) {
    return picture.pixels + row * picture.row + column * picture.step;
  }

  // Resized rows lie in a ring that holds those one row of the result needs.
  void by_rows(const Picture& picture, uint8_t* out) {
    const int held = y.most + kRows;
    const size_t pitch = static_cast<size_t>(size) * 3;
    scratch.resize(held * pitch);
    int ready = y.first();
    for (int i = 0; i < size; ++i) {
      const Span span = y.spans[i];
      for (; ready < span.end(); ready += kRows) {
        const uint8_t* from[kRows];
        uint8_t* to[kRows];
        for (int r = 0; r < kRows; ++r) {
          const int row = std::min(ready + r, y.end() - 1);
          from[r] = pixel(picture, row, x.first());
          to[r] = scratch.data() + row % held * pitch;
        }
        interleave(from, picture.step, columns, vectors.data());
        across(vectors.data(), x, resized.data());
        separate(resized.data(), size, to);
      }
      for (int k = 0; k < span.count; ++k) sources[k] = scratch.data() + (span.first + k) % held * pitch;
      down(sources.data(), y.of(i), span.count, pitch, out + i * pitch);
    }
  }

  void by_columns(const Picture& picture, uint8_t* out) {
    const size_t pitch = (columns - 1) * picture.step + 3, row_bytes = static_cast<size_t>(size) * 3;
    scratch.resize(kRows * pitch);
    for (int start = 0; start < size; start += kRows) {
      const uint8_t* from[kRows];
      uint8_t* to[kRows];
      for (int r = 0; r < kRows; ++r) {
        const int i = std::min(start + r, size - 1);
        const Span span = y.spans[i];
        for (int k = 0; k < span.count; ++k) sources[k] = pixel(picture, span.first + k, x.first());
        down(sources.data(), y.of(i), span.count, pitch, scratch.data() + r * pitch);
        from[r] = scratch.data() + r * pitch;
        to[r] = out + i * row_bytes;
      }
      interleave(from, picture.step, columns, vectors.data());
      across(vectors.data(), x, resized.data());
      separate(resized.data(), size, to);
    }
  }

  int size;
  Filter filter;
  Taps x, y;
  int columns = 0;
  std::vector<uint8_t> vectors, resized, scratch;
  std::vector<const uint8_t*> sources;
};

}  // namespace crop
