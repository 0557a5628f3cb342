// The published search: candidates follow one another in one random stream, which threads take turns to advance.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <mutex>
#include <tuple>

#include "../threads.h"
#include "canvas.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fractals;

constexpr int kFewest = 2, kMost = 7;
constexpr int kWords = Mersenne::kWords;
constexpr double kUnweighted[6] = {1, 1, 1, 1, 1, 1};

void load(const int64_t* state, Mersenne& generator) {
  for (int i = 0; i < kWords; ++i) generator.words[i] = static_cast<uint32_t>(state[i]);
  generator.position = static_cast<int>(state[kWords]);
}

void store(const Mersenne& generator, int64_t* state) {
  for (int i = 0; i < kWords; ++i) state[i] = generator.words[i];
  state[kWords] = generator.position;
}

// Two to seven maps, likely in proportion to their determinants; the rest of the rows 0.
int draw_formula(Mersenne& generator, double* maps, double* probabilities) {
  std::fill(maps, maps + kMost * 6, 0);
  std::fill(probabilities, probabilities + kMost, 0);
  const int count = kFewest + generator.below(kMost - kFewest + 1, 7);
  for (int i = 0; i < 6 * count; ++i) maps[i] = -1.0 + 2.0 * generator.uniform();
  double total = 0;
  for (int j = 0; j < count; ++j) {
    const double* m = maps + 6 * j;
    probabilities[j] = std::fabs(m[0] * m[3] - m[1] * m[2]);
    total += probabilities[j];
  }
  for (int j = 0; j < count; ++j) probabilities[j] /= total;
  return count;
}

struct Found {
  double *maps, *probabilities;
  int64_t *counts, *lit;
  bool* finite;
};

// Takes the next candidate of the stream and leaves it behind that candidate's numbers.
struct Stream {
  Mersenne generator;
  std::mutex turn;
  int64_t next = 0, count, points;
  Found found;

  int64_t take(Mersenne& own) {
    std::lock_guard<std::mutex> lock(turn);
    if (next == count) return -1;
    const int64_t item = next++;
    found.counts[item] = draw_formula(generator, found.maps + item * kMost * 6, found.probabilities + item * kMost);
    own = generator;
    generator.skip(2 * points);
    return item;
  }
};

void judge(Stream& stream, int64_t size) {
  Scratch& s = Scratch::mine(stream.points, size);
  std::vector<double> uniforms(stream.points);
  Mersenne own;
  for (int64_t item = stream.take(own); item >= 0; item = stream.take(own)) {
    own.uniforms(uniforms.data(), stream.points);
    Path path = follow(stream.found.maps + item * kMost * 6, kUnweighted, stream.found.probabilities + item * kMost,
                       static_cast<int>(stream.found.counts[item]), uniforms.data(), stream.points, s);
    bin(path.kept, size, s);
    std::fill(s.canvas.begin(), s.canvas.end(), 0);
    paint_points(path.kept, kPointGray, s);
    stream.found.lit[item] = count_lit(s.canvas.data(), size * size);
    stream.found.finite[item] = path.finite;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> search(Tensor state, int64_t count, int64_t size,
                                                                  int64_t points, int64_t threads) {
  auto make = [&](std::initializer_list<int64_t> sizes, ScalarType type) {
    return torch::stable::new_empty(state, sizes, type);
  };
  Tensor maps = make({count, kMost, 6}, ScalarType::Double), probabilities = make({count, kMost}, ScalarType::Double);
  Tensor counts = make({count}, ScalarType::Long), lit = make({count}, ScalarType::Long);
  Tensor finite = make({count}, ScalarType::Bool), after = make({kWords + 1}, ScalarType::Long);
  Stream stream;
  load(static_cast<const int64_t*>(state.data_ptr()), stream.generator);
  stream.count = count;
  stream.points = points;
  stream.found = {static_cast<double*>(maps.data_ptr()), static_cast<double*>(probabilities.data_ptr()),
                  static_cast<int64_t*>(counts.data_ptr()), static_cast<int64_t*>(lit.data_ptr()),
                  static_cast<bool*>(finite.data_ptr())};
  vitkiln_threads::everywhere(std::min(threads, count), [&] { judge(stream, size); });
  store(stream.generator, static_cast<int64_t*>(after.data_ptr()));
  return std::make_tuple(maps, probabilities, counts, lit, finite, after);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def(
      "fractal_search(Tensor state, int count, int size, int points, int threads) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) { library.impl("fractal_search", TORCH_BOX(&search)); }
