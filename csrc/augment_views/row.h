// One row of parameters, read; columns as in kernels/augment_views/columns.py.
#pragma once

#include <cmath>

#include "pixel.h"

namespace views {

constexpr int kColumns = 13;
enum Step : unsigned { kBrightness = 1, kContrast, kSaturation, kHue, kGray };

struct Row {
  unsigned before, after;  // steps, four bits each, the first the lowest; before: those whose mean the contrast needs
  float factors[3];
  int shift, threshold;
  bool blurs, mirrored, upside_down;
  Box box;

  BOTH bool needs_mean() const { return (after & 15) == kContrast; }
  BOTH bool solarizes() const { return threshold < 256; }
};

// Gwosdek et al., SSVM 2011. A sigma above 2.44 is not supported, and taken for that so as not to reach further.
BOTH Box box_of(float sigma) {
  sigma = least(sigma, 2.44f);
  const double variance = static_cast<double>(sigma) * sigma / 3.0;
  const double reach = floor((sqrt(12.0 * variance + 1.0) - 1.0) / 2.0);
  const double rest =
      (2 * reach + 1) * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) * (reach + 1)));
  const float radius = static_cast<float>(reach + rest);
  const int inside = static_cast<int>(16777216.0f / (radius * 2 + 1));
  const bool wide = reach > 0;
  return {static_cast<uint32_t>(inside), static_cast<uint32_t>((16777216 - (wide ? 3 : 1) * inside) / 2), wide};
}

BOTH unsigned appended(unsigned steps, unsigned step) {
  unsigned place = 0;
  while (steps >> place) place += 4;
  return steps | step << place;
}

BOTH Row read_row(const float* columns) {
  Row row{};
  row.mirrored = columns[0] == 1 || columns[0] == 3;
  row.upside_down = columns[0] >= 2;
  for (int i = 0; i < 3; ++i) row.factors[i] = columns[6 + i];
  row.shift = static_cast<int>(static_cast<double>(columns[9]) * 255.0) & 255;
  for (int i = 2; columns[1] > 0 && i < 6; ++i) {
    const float number = columns[i];
    for (unsigned step = kBrightness; step <= kHue; ++step) {
      if (number != static_cast<float>(step - 1)) continue;
      if (step == kHue ? columns[9] == 0 : columns[5 + step] == 1) continue;
      if (step == kContrast) row.before = row.after, row.after = 0;
      row.after = appended(row.after, step);
    }
  }
  if (columns[10] > 0) row.after = appended(row.after, kGray);
  row.blurs = columns[11] > 0;
  row.box = row.blurs ? box_of(columns[11]) : Box{};
  row.threshold = columns[12] < 256 ? static_cast<int>(ceilf(columns[12] > 0 ? columns[12] : 0)) : 256;
  return row;
}

}  // namespace views
