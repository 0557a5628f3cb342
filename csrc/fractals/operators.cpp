// The fractal operators on a CPU. Arguments are checked by kernels/fractals/op.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "../threads.h"
#include "canvas.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fractals;

struct Formulas {
  const double *maps, *probabilities, *weights, *uniforms;
  int64_t count, most, points;

  Formulas(const Tensor& m, const Tensor& p, const Tensor& w, const Tensor& u)
      : maps(static_cast<const double*>(m.data_ptr())),
        probabilities(static_cast<const double*>(p.data_ptr())),
        weights(static_cast<const double*>(w.data_ptr())),
        uniforms(static_cast<const double*>(u.data_ptr())),
        count(m.size(0)),
        most(m.size(1)),
        points(u.size(0)) {}

  Path traced(int64_t item, int64_t size, Scratch& s) const {
    Path path = follow(maps + item * most * 6, weights + item * 6, probabilities + item * most,
                       static_cast<int>(most), uniforms, points, s);
    bin(path.kept, size, s);
    std::fill(s.canvas.begin(), s.canvas.end(), 0);
    return path;
  }
};

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> support(Tensor maps, Tensor probabilities, Tensor weights, Tensor uniforms,
                                           int64_t size, int64_t style, int64_t threads) {
  const Formulas formulas(maps, probabilities, weights, uniforms);
  const int64_t pixels = size * size, bytes = gray(style) ? (pixels + 7) / 8 : pixels;
  Tensor bits = torch::stable::new_empty(maps, {formulas.count, bytes}, ScalarType::Byte);
  Tensor lit = torch::stable::new_empty(maps, {formulas.count}, ScalarType::Long);
  Tensor finite = torch::stable::new_empty(maps, {formulas.count}, ScalarType::Bool);
  auto *bits_out = data<uint8_t>(bits);
  auto* lit_out = data<int64_t>(lit);
  auto* finite_out = data<bool>(finite);
  const int kind = static_cast<int>(style);
  vitkiln_threads::share(formulas.count, threads, [&] {
    return [&, &s = Scratch::mine(formulas.points, size)](int64_t item) {
      Path path = formulas.traced(item, size, s);
      paint_points(path.kept, kind, s);
      lit_out[item] = count_lit(s.canvas.data(), pixels);
      finite_out[item] = path.finite;
      cover(path.kept, size, kind, s);
      if (gray(kind))
        pack(s.canvas.data(), pixels, bits_out + item * bytes);
      else
        std::copy(s.canvas.begin(), s.canvas.end(), bits_out + item * bytes);
    };
  });
  return std::make_tuple(bits, lit, finite);
}

Tensor images_like(const Tensor& like, int64_t count, int64_t size, int64_t style) {
  if (gray(static_cast<int>(style))) return torch::stable::new_empty(like, {count, size, size}, ScalarType::Byte);
  return torch::stable::new_empty(like, {count, size, size, 3}, ScalarType::Byte);
}

Tensor render(Tensor maps, Tensor probabilities, Tensor weights, Tensor uniforms, Tensor seeds, Tensor palette,
              int64_t size, int64_t style, int64_t threads) {
  const Formulas formulas(maps, probabilities, weights, uniforms);
  const int64_t pixels = size * size;
  const int kind = static_cast<int>(style);
  Tensor images = images_like(maps, formulas.count, size, style);
  auto* out = data<uint8_t>(images);
  const auto* keys = data<int64_t>(seeds);
  const auto* colours = data<uint8_t>(palette);
  vitkiln_threads::share(formulas.count, threads, [&] {
    return [&, &s = Scratch::mine(formulas.points, size)](int64_t item) {
      Path path = formulas.traced(item, size, s);
      if (patches(kind))
        paint_masks(path.kept, size, kind, static_cast<uint64_t>(keys[item]), s);
      else
        paint_points(path.kept, kind, s);
      if (gray(kind))
        std::copy(s.canvas.begin(), s.canvas.end(), out + item * pixels);
      else
        colour(s.canvas.data(), pixels, colours, out + item * pixels * 3);
    };
  });
  return images;
}

// A picture from the stored support: the pixels that are covered, each lit by itself where patches are random.
void draw_one(const uint8_t* stored, uint64_t seed, const uint8_t* palette, int64_t pixels, int style,
              std::vector<uint8_t>& ink, std::vector<uint32_t>& random, uint8_t* out) {
  if (patches(style)) bernoulli(seed, static_cast<int64_t>(random.size()), random.data());
  const auto* chances = reinterpret_cast<uint8_t*>(random.data());  // little-endian, as packed bits are
  if (gray(style)) {
    const int64_t bytes = (pixels + 7) / 8;
    if (patches(style))
      for (int64_t i = 0; i < bytes; ++i) ink[i] = stored[i] & chances[i];
    else
      std::copy(stored, stored + bytes, ink.data());
    unpack(ink.data(), pixels, kLit, out);
    return;
  }
  if (patches(style)) {
    unpack(chances, pixels, 0xff, ink.data());
    for (int64_t i = 0; i < pixels; ++i) ink[i] &= stored[i];
  } else {
    std::copy(stored, stored + pixels, ink.data());
  }
  colour(ink.data(), pixels, palette, out);
}

Tensor draw(Tensor bits, Tensor seeds, Tensor palette, int64_t size, int64_t style, int64_t threads) {
  const int64_t count = bits.size(0), bytes = bits.size(1), pixels = size * size;
  const int kind = static_cast<int>(style);
  Tensor images = images_like(bits, count, size, style);
  auto* out = data<uint8_t>(images);
  const auto* stored = data<uint8_t>(bits);
  const auto* keys = data<int64_t>(seeds);
  const auto* colours = data<uint8_t>(palette);
  const int64_t step = gray(kind) ? pixels : pixels * 3;
  vitkiln_threads::share(count, threads, [&] {
    return [&, ink = std::vector<uint8_t>(pixels), random = std::vector<uint32_t>((pixels + 31) / 32)](
               int64_t item) mutable {
      draw_one(stored + item * bytes, static_cast<uint64_t>(keys[item]), colours, pixels, kind, ink, random,
               out + item * step);
    };
  });
  return images;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def(
      "fractal_support(Tensor maps, Tensor probabilities, Tensor weights, Tensor uniforms, int size, int style, "
      "int threads) -> (Tensor, Tensor, Tensor)");
  library.def(
      "fractal_render(Tensor maps, Tensor probabilities, Tensor weights, Tensor uniforms, Tensor seeds, "
      "Tensor palette, int size, int style, int threads) -> Tensor");
  library.def(
      "fractal_draw(Tensor bits, Tensor seeds, Tensor palette, int size, int style, int threads) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) {
  library.impl("fractal_support", TORCH_BOX(&support));
  library.impl("fractal_render", TORCH_BOX(&render));
  library.impl("fractal_draw", TORCH_BOX(&draw));
}
