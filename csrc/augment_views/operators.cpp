// Colours, blur and flips of crops on a CPU, one image at a time in the cache. kernels/augment_views checks arguments.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "../crop_cut.h"
#include "../crop_pictures.h"
#include "../threads.h"
#include "blur.h"
#include "colour.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Pixels of a row from the last to the first, in moves of four bytes of which the next overwrites the fourth.
void mirror_row(const uint8_t* __restrict from, uint8_t* __restrict to, int64_t width) {
  for (int64_t x = 0; x + 1 < width; ++x) std::memcpy(to + 3 * x, from + 3 * (width - 1 - x), 4);
  std::memcpy(to + 3 * (width - 1), from, 3);
}

struct Shape {
  int64_t height, width;
  int64_t row() const { return 3 * width; }
  int64_t bytes() const { return height * row(); }
};

void flip(const Shape& shape, const views::Row& row, const uint8_t* from, uint8_t* to) {
  for (int64_t y = 0; y < shape.height; ++y) {
    const uint8_t* line = from + (row.upside_down ? shape.height - 1 - y : y) * shape.row();
    if (row.mirrored)
      mirror_row(line, to + y * shape.row(), shape.width);
    else
      std::memcpy(to + y * shape.row(), line, shape.row());
  }
}

void solarize(uint8_t* pixels, int64_t count, int threshold) {
  for (int64_t i = 0; i < count; ++i)
    pixels[i] = static_cast<uint8_t>(pixels[i] >= threshold ? 255 - pixels[i] : pixels[i]);
}

// The flip comes first, while the pixels are on their way anyway: no other step tells left from right.
void one(const Shape& shape, const views::Row& row, const uint8_t* from, uint8_t* to) {
  const int64_t pixels = shape.height * shape.width;
  if (row.mirrored || row.upside_down) flip(shape, row, from, to), from = to;
  int mean = 0;
  if (row.needs_mean()) {
    const int64_t total = views::run_all(from, to, pixels, row.before, row, 0, true);
    mean = static_cast<int>(views::rounded_mean(total, pixels));
    if (row.before) from = to;
  }
  if (row.after) views::run_all(from, to, pixels, row.after, row, mean, false), from = to;
  if (row.blurs) views::blur(row.box, from, to, shape.height, shape.width), from = to;
  if (from != to) std::memcpy(to, from, shape.bytes());
  if (row.solarizes()) solarize(to, shape.bytes(), row.threshold);
}

Tensor augment(Tensor images, Tensor parameters, int64_t threads) {
  Tensor out = torch::stable::empty_like(images);
  const Shape shape{images.size(1), images.size(2)};
  const auto* from = static_cast<const uint8_t*>(images.data_ptr());
  const auto* columns = static_cast<const float*>(parameters.data_ptr());
  auto* to = static_cast<uint8_t*>(out.data_ptr());
  vitkiln_threads::share(images.size(0), threads, [&] {
    return [&](int64_t item) {
      const views::Row row = views::read_row(columns + item * views::kColumns);
      one(shape, row, from + item * shape.bytes(), to + item * shape.bytes());
    };
  });
  return out;
}

// A crop is coloured where it was cut, except that one to be flipped is cut elsewhere, from where the flip takes it.
Tensor augment_boxes(std::vector<Tensor> images, Tensor which, Tensor boxes, int64_t size, int64_t filter,
                     Tensor parameters, int64_t threads) {
  const std::vector<crop::Picture> pictures = crop::pictures(images);
  const int64_t count = boxes.size(0);
  const Shape shape{size, size};
  Tensor out = torch::stable::new_empty(boxes, {count, size, size, 3}, ScalarType::Byte);
  const auto* picture = static_cast<const int64_t*>(which.data_ptr());
  const auto* box = static_cast<const crop::Box*>(boxes.data_ptr());
  const auto* columns = static_cast<const float*>(parameters.data_ptr());
  auto* to = static_cast<uint8_t*>(out.data_ptr());
  vitkiln_threads::share(count, threads, [&] {
    return [&, cutter = crop::Cutter(static_cast<int>(size), static_cast<crop::Filter>(filter)),
            elsewhere = std::vector<uint8_t>(shape.bytes())](int64_t item) mutable {
      const views::Row row = views::read_row(columns + item * views::kColumns);
      uint8_t* view = to + item * shape.bytes();
      uint8_t* cut = row.mirrored || row.upside_down ? elsewhere.data() : view;
      cutter(pictures[picture[item]], box[item], cut);
      one(shape, row, cut, view);
    };
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def("augment_views_native(Tensor images, Tensor parameters, int threads) -> Tensor");
  library.def(
      "augment_boxes_native(Tensor[] images, Tensor which, Tensor boxes, int size, int filter, Tensor parameters, "
      "int threads) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) {
  library.impl("augment_views_native", TORCH_BOX(&augment));
  library.impl("augment_boxes_native", TORCH_BOX(&augment_boxes));
}
