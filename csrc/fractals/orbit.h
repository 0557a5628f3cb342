// The points of an iterated function system and the pixels they fall into, in float64 and in the published order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fractals {

constexpr int kPad = 6, kDropped = 100;

// What a thread needs for one picture after another; kept between calls, since fresh memory costs more than an orbit.
struct Scratch {
  std::vector<double> x, y;
  std::vector<uint8_t> choice;
  std::vector<int32_t> pixel;
  std::vector<uint8_t> canvas, rows;

  static Scratch& mine(int64_t points, int64_t size) {
    static thread_local Scratch own;
    own.x.resize(points), own.y.resize(points), own.choice.resize(points), own.pixel.resize(points);
    own.canvas.resize(size * size), own.rows.resize(size * (size + 3));
    return own;
  }
};

struct Path {
  int64_t kept;  // points that are drawn
  bool finite;   // of all points
};

// choice[i] = the first map whose running sum of probabilities is not below u[i], or `maps` where there is none.
inline void choose(const double* probabilities, int maps, const double* u, int64_t count, uint8_t* choice) {
  constexpr int64_t kBlock = 512;
  double running[256];
  double sum = 0;
  for (int j = 0; j < maps; ++j) running[j] = sum += probabilities[j];
  for (int64_t start = 0; start < count; start += kBlock) {
    int64_t end = std::min(count, start + kBlock);
    std::fill(choice + start, choice + end, 0);
    for (int j = 0; j < maps; ++j) {
      double limit = running[j];
      for (int64_t i = start; i < end; ++i) choice[i] += u[i] > limit;
    }
  }
}

// NaN stays NaN from point to point, so the first is found by halving.
inline int64_t first_nan(const double* values, int64_t count) {
  if (count == 0 || !std::isnan(values[count - 1])) return count;
  return std::partition_point(values, values + count, [](double v) { return !std::isnan(v); }) - values;
}

inline int64_t without_nan(const double* values, int64_t count) {
  int64_t first = first_nan(values, count);
  return first == count ? count : std::max<int64_t>(0, first - kDropped);
}

inline Path follow(const double* maps, const double* weights, const double* probabilities, int count, const double* u,
                   int64_t points, Scratch& s) {
  std::vector<double> table(6 * (count + 1));
  for (int j = 0; j < 6 * count; ++j) table[j] = maps[j] * weights[j % 6];
  const double stay[6] = {1, 0, 0, 1, 0, 0};
  std::copy(stay, stay + 6, table.begin() + 6 * count);
  choose(probabilities, count, u, points - 1, s.choice.data());
  double x = 0, y = 0;
  s.x[0] = s.y[0] = 0;
  for (int64_t i = 1; i < points; ++i) {
    const double* m = table.data() + 6 * s.choice[i - 1];
    double next = m[0] * x + m[1] * y + m[4];
    y = m[2] * x + m[3] * y + m[5];
    x = next;
    s.x[i] = x;
    s.y[i] = y;
  }
  int64_t kept = without_nan(s.y.data(), without_nan(s.x.data(), points));
  return {kept, std::isfinite(x) && std::isfinite(y)};
}

struct Range {
  double low, high;
};

inline Range range(const double* values, int64_t count) {
  constexpr int kWide = 16;
  double low[kWide], high[kWide];
  std::fill(low, low + kWide, values[0]);
  std::fill(high, high + kWide, values[0]);
  int64_t i = 0;
  for (; i + kWide <= count; i += kWide)
    for (int lane = 0; lane < kWide; ++lane) {
      double v = values[i + lane];
      low[lane] = v < low[lane] ? v : low[lane];
      high[lane] = v > high[lane] ? v : high[lane];
    }
  for (; i < count; ++i) low[0] = std::min(low[0], values[i]), high[0] = std::max(high[0], values[i]);
  return {*std::min_element(low, low + kWide), *std::max_element(high, high + kWide)};
}

// The pixel of each point on the canvas turned upside down, row after row; 0 where a coordinate is not a number.
inline void bin(int64_t count, int64_t size, Scratch& s) {
  if (count == 0) return;
  const double *xs = s.x.data(), *ys = s.y.data();
  int32_t* pixel = s.pixel.data();
  const Range across = range(xs, count), down = range(ys, count);
  const double width = across.high - across.low, height = down.high - down.low;
  const double inner = static_cast<double>(size - 2 * kPad);
  const int32_t wide = static_cast<int32_t>(size), bottom = static_cast<int32_t>(size - 1);
  for (int64_t i = 0; i < count; ++i) {
    double column = (xs[i] - across.low) / width * inner + kPad;
    double row = (ys[i] - down.low) / height * inner + kPad;
    column = column - column == 0 ? column : 0;
    row = row - row == 0 ? row : 0;
    pixel[i] = (bottom - static_cast<int32_t>(row)) * wide + static_cast<int32_t>(column);
  }
}

inline int64_t count_lit(const uint8_t* canvas, int64_t pixels) {
  int64_t lit = 0;
  for (int64_t start = 0; start < pixels; start += 255) {  // a byte holds the sum of 255
    int64_t end = std::min(pixels, start + 255);
    int32_t here = 0;
    for (int64_t i = start; i < end; ++i) here += canvas[i] != 0;
    lit += here;
  }
  return lit;
}

}  // namespace fractals
