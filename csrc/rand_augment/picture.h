// A picture on a CPU, in one of two buffers, which Pillow's operations change or read into the other.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "formulas.h"
#include "places.h"

namespace rand_augment {

class Picture {
 public:
  Picture(int height, int width)
      : height_(height), width_(width), bytes_(static_cast<int64_t>(height) * width * 3), now_(bytes_ + kAfter),
        next_(bytes_ + kAfter) {}

  void put(const uint8_t* from) { std::memcpy(now_.data(), from, bytes_); }
  void take(uint8_t* to) const { std::memcpy(to, now_.data(), bytes_); }

  void change(const double* row, const uint8_t* fill, bool cubic) {
    const int kind = kind_of(row[0]);
    const double number = row[1];
    switch (kind) {
      case kNone: return;
      case kAutoContrast: return auto_contrast();
      case kEqualize: return equalize();
      case kInvert: return each([](int v) { return 255 - v; });
      case kPosterize: return each([mask = kept(number)](int v) { return v & mask; });
      case kSolarize: return each([from = first_inverted(number)](int v) { return v < from ? v : 255 - v; });
      case kSolarizeAdd:
        return each([more = whole(number, 255)](int v) { return v < 128 ? std::min(255, v + more) : v; });
      case kColor: return color(static_cast<float>(number));
      case kContrast: return from_level(mean_luma(), static_cast<float>(number));
      case kBrightness: return from_level(0, static_cast<float>(number));
      case kSharpness: return sharpness(static_cast<float>(number));
      case kMirror: return mirror();
      case kUpsideDown: return upside_down();
      default: return cubic ? move<4>(Map(row + 1), fill) : move<2>(Map(row + 1), fill);
    }
  }

 private:
  int height_, width_;
  int64_t bytes_;
  std::vector<uint8_t> now_, next_;

  int64_t line() const { return static_cast<int64_t>(width_) * 3; }

  template <typename Change>
  void each(Change change) {
    uint8_t* v = now_.data();
    const int64_t count = bytes_;  // which bytes that are written could otherwise be
    for (int64_t i = 0; i < count; ++i) v[i] = static_cast<uint8_t>(change(v[i]));
  }

  void look_up(const uint8_t (&table)[3][256]) {
    uint8_t* v = now_.data();
    const int64_t count = bytes_;
    for (int64_t i = 0; i < count; i += 3)
      for (int channel = 0; channel < 3; ++channel) v[i + channel] = table[channel][v[i + channel]];
  }

  void auto_contrast() {
    constexpr int kLanes = 192;  // whole pixels and whole vectors
    uint8_t low[kLanes], high[kLanes], table[3][256];
    std::fill(low, low + kLanes, 255);
    std::fill(high, high + kLanes, 0);
    const uint8_t* v = now_.data();
    const auto take = [&](int lane, uint8_t value) {
      low[lane] = std::min(low[lane], value);
      high[lane] = std::max(high[lane], value);
    };
    const int64_t whole = bytes_ - bytes_ % kLanes;
    for (int64_t start = 0; start < whole; start += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) take(lane, v[start + lane]);
    for (int64_t i = whole; i < bytes_; ++i) take(static_cast<int>(i - whole), v[i]);
    for (int i = 3; i < kLanes; ++i) take(i % 3, low[i]), take(i % 3, high[i]);
    for (int channel = 0; channel < 3; ++channel)
      for (int value = 0; value < 256; ++value) table[channel][value] = stretched(value, low[channel], high[channel]);
    look_up(table);
  }

  void equalize() {
    uint32_t count[2][3][256] = {};  // of every other pixel, as equal neighbours would wait for each other
    const uint8_t* v = now_.data();
    for (int64_t i = 0; i < bytes_; i += 3)
      for (int channel = 0; channel < 3; ++channel) ++count[i & 1][channel][v[i + channel]];
    uint8_t table[3][256];
    const uint32_t pixels = static_cast<uint32_t>(bytes_ / 3);
    for (int channel = 0; channel < 3; ++channel) {
      uint32_t highest = 0, below = 0;
      for (int value = 0; value < 256; ++value) {
        const uint32_t here = count[0][channel][value] += count[1][channel][value];
        if (here) highest = here;
      }
      const uint32_t step = (pixels - highest) / 255;
      for (int value = 0; value < 256; ++value) {
        table[channel][value] = flattened(value, below, step);
        below += count[0][channel][value];
      }
    }
    look_up(table);
  }

  // Grey of pixels, from `row` on.
  static void grey_of(const uint8_t* __restrict row, int count, uint8_t* __restrict out) {
    for (int x = 0; x < count; ++x) out[x] = static_cast<uint8_t>(luma(row[3 * x], row[3 * x + 1], row[3 * x + 2]));
  }

  int mean_luma() const {
    std::vector<uint8_t> grey(width_);
    int64_t total = 0;
    for (int y = 0; y < height_; ++y) {
      grey_of(now_.data() + y * line(), width_, grey.data());
      uint32_t sum = 0;
      for (int x = 0; x < width_; ++x) sum += grey[x];
      total += sum;
    }
    const int64_t count = bytes_ / 3;
    return static_cast<int>((2 * total + count) / (2 * count));
  }

  void from_level(int level, float factor) {
    each([level, factor](int v) { return blended(level, v, factor); });
  }

  void color(float factor) {
    std::vector<uint8_t> grey(width_), base(line());
    for (int y = 0; y < height_; ++y) {
      uint8_t* row = now_.data() + y * line();
      grey_of(row, width_, grey.data());
      for (int x = 0; x < width_; ++x) base[3 * x] = base[3 * x + 1] = base[3 * x + 2] = grey[x];
      blend(base.data(), row, factor, line(), row);
    }
  }

  static void blend(const uint8_t* base, const uint8_t* v, float factor, int64_t count, uint8_t* out) {
#pragma GCC ivdep  // out is v or lies elsewhere
    for (int64_t i = 0; i < count; ++i) out[i] = blended(base[i], v[i], factor);
  }

  void sharpness(float factor) {
    if (height_ < 3 || width_ < 3) return;
    const uint8_t* from = now_.data();
    uint8_t* to = next_.data();
    std::memcpy(to, from, bytes_);
    for (int y = 1; y + 1 < height_; ++y)
      sharpen(from + y * line(), line(), factor, to + y * line());
    now_.swap(next_);
  }

  static void sharpen(const uint8_t* __restrict row, int64_t line, float factor, uint8_t* __restrict out) {
    const uint8_t *above = row - line, *below = row + line;
    for (int64_t i = 3; i < line - 3; ++i) {
      const int total = above[i - 3] + above[i] + above[i + 3] + row[i - 3] + 5 * row[i] + row[i + 3] + below[i - 3] +
                        below[i] + below[i + 3];
      out[i] = blended(smooth(total), row[i], factor);
    }
  }

  void mirror() {
    const int width = width_;
    for (int y = 0; y < height_; ++y) {
      const uint8_t* from = now_.data() + (y + 1) * line() - 3;
      uint8_t* to = next_.data() + y * line();
      for (int x = 0; x < width; ++x, from -= 3, to += 3) std::memcpy(to, from, 4);
    }
    now_.swap(next_);
  }

  void upside_down() {
    for (int top = 0, bottom = height_ - 1; top < bottom; ++top, --bottom)
      std::swap_ranges(now_.data() + top * line(), now_.data() + (top + 1) * line(), now_.data() + bottom * line());
  }

  template <int kTaps>
  void move(const Map& map, const uint8_t* fill) {
    const Four beyond = {double(fill[0]), double(fill[1]), double(fill[2]), 0.0};
    const int width = width_, height = height_;
    Places places(width);
    uint8_t* out = next_.data();
    for (int y = 0; y < height; ++y) {
      places.find(map, y, width, height);
      for (int x = 0; x < width; ++x, out += 3)
        write(places.left[x] == kBeyond ? beyond : at<kTaps>(places, x), out);
    }
    now_.swap(next_);
  }

  // Where a part is 0, the pixels after the first count for nothing.
  template <int kTaps>
  Four at(const Places& places, int x) const {
    constexpr int before = kTaps / 2 - 1;
    const int left = places.left[x], top = places.top[x];
    const double across = places.across[x], down = places.down[x];
    if (down == 0.0) return cut<kTaps>(along<kTaps>(left, across, top));
    Four rows[kTaps];
    for (int i = 0; i < kTaps; ++i) rows[i] = along<kTaps>(left, across, within(top + i - before, height_));
    return cut<kTaps>(between(rows, down));
  }

  template <int kTaps>
  Four along(int left, double across, int y) const {
    const uint8_t* row = now_.data() + y * line();
    if (across == 0.0) return read(row + 3 * left);
    const int first = left - (kTaps / 2 - 1);
    Four pixels[kTaps];
    if (first >= 0 && first + kTaps <= width_)
      for (int i = 0; i < kTaps; ++i) pixels[i] = read(row + 3 * (first + i));
    else
      for (int i = 0; i < kTaps; ++i) pixels[i] = read(row + 3 * within(first + i, width_));
    return between(pixels, across);
  }

  // Lines stay between what they join, cubics do not.
  template <int kTaps>
  static Four cut(Four value) {
    if (kTaps == 2) return value;
    const Four most = {255.0, 255.0, 255.0, 255.0}, least = {};
    value = value < least ? least : value;
    return value > most ? most : value;
  }
};

}  // namespace rand_augment
