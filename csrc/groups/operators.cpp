// Groups of pixels on a CPU: masks, what they show, and the error there. Arguments are checked by kernels/groups.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "../threads.h"
#include "mask.h"
#include "normal.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

std::tuple<Tensor, Tensor> mask(Tensor seed, Tensor samples, Tensor target, Tensor numbers, int64_t threads) {
  groups::Rule rule;
  std::memcpy(&rule, numbers.data_ptr(), sizeof rule);
  const int64_t batch = samples.size(0), words = (rule.width + 31) / 32;
  Tensor bitmap = torch::stable::new_empty(samples, {batch, rule.height, words}, ScalarType::Int);
  Tensor covered = torch::stable::new_empty(samples, {batch, rule.height, rule.width}, ScalarType::Bool);
  auto* bits = data<uint8_t>(bitmap);
  auto* flags = data<uint8_t>(covered);
  const auto *key = data<int64_t>(seed), *ids = data<int64_t>(samples);
  const auto* shares = data<double>(target);
  vitkiln_threads::share(batch, threads, [&] {
    return [&](int64_t item) {
      const groups::Grid grid = groups::drawn(rule, static_cast<uint64_t>(key[0]), static_cast<uint32_t>(key[1]),
                                              static_cast<uint64_t>(ids[item]), shares[item]);
      groups::expand(grid, rule, flags + item * rule.height * rule.width, bits + item * rule.height * words * 4);
    };
  });
  return std::make_tuple(bitmap, covered);
}

// 24 bytes, three for each bit of a byte: 255 where it is set.
struct Spread {
  uint8_t bytes[256][24];
  Spread() {
    for (int value = 0; value < 256; ++value)
      for (int i = 0; i < 24; ++i) bytes[value][i] = value >> (i / 3) & 1 ? 255 : 0;
  }
};

// A mask of either kind, read row by row as 255 or 0 for each channel of each pixel.
struct Mask {
  const uint8_t* start;
  bool flags;  // a byte for each pixel; else words of 32 of them
  int64_t height, width, row_bytes;

  Mask(const Tensor& mask, const Tensor& images)
      : start(data<uint8_t>(mask)),
        flags(mask.scalar_type() == ScalarType::Bool),
        height(images.size(1)),
        width(images.size(2)),
        row_bytes(flags ? width : (width + 31) / 32 * 4) {}

  int64_t room() const { return (width + 7) / 8 * 24; }  // bytes that a row is written to

  void row(int64_t image, int64_t y, uint8_t* out) const {
    static const Spread spread;
    const uint8_t* from = start + (image * height + y) * row_bytes;
    for (int64_t x = 0; x < width; x += 8) {
      uint8_t last[8] = {};
      if (flags && x + 8 > width) std::memcpy(last, from + x, width - x);
      const uint8_t eight = !flags ? from[x / 8] : groups::packed(x + 8 > width ? last : from + x);
      std::memcpy(out + x * 3, spread.bytes[eight], 24);
    }
  }
};

// Three numbers in turn, as many as a loop may read from any of the first three on.
struct Channels {
  float mean[groups::kNormals + 3], std[groups::kNormals + 3];
  explicit Channels(const float* scaling) {
    for (int i = 0; i < groups::kNormals + 3; ++i) mean[i] = scaling[i % 3], std[i] = scaling[3 + i % 3];
  }
};

inline void as_pixel(float value, float& out) { out = value; }
inline void as_pixel(float value, uint8_t& out) {
  const float level = std::floor(value * 255.0f + 0.5f);
  out = static_cast<uint8_t>(static_cast<int32_t>(level < 0.0f ? 0.0f : level > 255.0f ? 255.0f : level));
}

enum Kind { kNoise, kZeros, kImages };

template <typename T>
struct Corruption {
  const T *images, *other;
  const uint64_t* key;
  const int64_t *ids, *partner;
  Channels channels;
  Mask mask;
  Kind kind;
  T* out;

  int64_t size() const { return mask.height * mask.width * 3; }

  void one(int64_t item, std::vector<uint8_t>& cover) const {
    for (int64_t y = 0; y < mask.height; ++y) mask.row(item, y, cover.data() + y * mask.width * 3);
    const T* from = images + item * size();
    T* to = out + item * size();
    const int64_t who = partner[item];
    if (who >= 0 || kind == kImages)
      blend(from, who >= 0 ? images + who * size() : other + item * size(), cover.data(), to, size());
    else
      fill(item, from, cover.data(), to);
  }

  static void blend(const T* __restrict from, const T* __restrict shown, const uint8_t* __restrict cover,
                    T* __restrict to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = cover[i] ? shown[i] : from[i];
  }

  void fill(int64_t item, const T* from, const uint8_t* cover, T* to) const {
    float normal[groups::kNormals] = {};
    T shown[groups::kNormals];
    for (int64_t start = 0; start < size(); start += groups::kNormals) {
      const int64_t count = std::min<int64_t>(groups::kNormals, size() - start);
      if (!any(cover + start, count)) {
        std::copy(from + start, from + start + count, to + start);
        continue;
      }
      if (kind == kNoise)
        groups::normals(key[0], static_cast<uint32_t>(key[1]), static_cast<uint64_t>(ids[item]),
                        start / groups::kNormals, normal);
      const float *mean = channels.mean + start % 3, *std = channels.std + start % 3;
      for (int i = 0; i < groups::kNormals; ++i) as_pixel(mean[i] + std[i] * normal[i], shown[i]);
      blend(from + start, shown, cover + start, to + start, count);
    }
  }

  static bool any(const uint8_t* cover, int64_t count) {
    uint8_t found = 0;
    for (int64_t i = 0; i < count; ++i) found |= cover[i];
    return found;
  }
};

template <typename T>
void corrupt_all(const Tensor& images, const Tensor& mask, const Tensor& other, const Tensor& partner,
                 const Tensor& seed, const Tensor& samples, const Tensor& scaling, int64_t kind, int64_t threads,
                 const Tensor& out) {
  const Corruption<T> work{data<T>(images),
                           data<T>(other),
                           data<uint64_t>(seed),
                           data<int64_t>(samples),
                           data<int64_t>(partner),
                           Channels(data<float>(scaling)),
                           Mask(mask, images),
                           static_cast<Kind>(kind),
                           data<T>(out)};
  vitkiln_threads::share(images.size(0), threads, [&] {
    return [&, cover = std::vector<uint8_t>(work.size() + 24)](int64_t item) mutable { work.one(item, cover); };
  });
}

Tensor corrupt(Tensor images, Tensor mask, Tensor other, Tensor partner, Tensor seed, Tensor samples, Tensor scaling,
               int64_t kind, int64_t threads) {
  Tensor out = torch::stable::empty_like(images);
  const bool bytes = images.scalar_type() == ScalarType::Byte;
  (bytes ? corrupt_all<uint8_t> : corrupt_all<float>)(images, mask, other, partner, seed, samples, scaling, kind,
                                                       threads, out);
  return out;
}

// Predictions of patches beside the rows of images that they are of.
template <typename T>
struct Errors {
  const float* prediction;
  const T* images;
  Mask mask;
  int64_t size;  // pixels along a side of a patch
  std::vector<float> mean, std;

  Errors(const Tensor& p, const Tensor& i, const Tensor& m, const Tensor& scaling)
      : prediction(data<float>(p)), images(data<T>(i)), mask(m, i) {
    size = 1;
    while (3 * size * size < p.size(2)) ++size;
    const auto* numbers = data<float>(scaling);
    for (int64_t k = 0; k < 3 * size; ++k) mean.push_back(numbers[k % 3]), std.push_back(numbers[3 + k % 3]);
  }

  // work(where in the predictions, errors, cover, how many) for each row of pixels of each patch of an image.
  template <typename Work>
  void each(int64_t item, Work work) const {
    const int64_t across = mask.width / size, count = 3 * size, patch = count * size;
    std::vector<uint8_t> cover(mask.room());
    std::vector<float> error(count);
    for (int64_t y = 0; y < mask.height; ++y) {
      mask.row(item, y, cover.data());
      const T* row = images + (item * mask.height + y) * mask.width * 3;
      for (int64_t x = 0; x < across; ++x) {
        const int64_t at = ((item * (mask.height / size) + y / size) * across + x) * patch + y % size * count;
        difference(prediction + at, row + x * count, error.data(), count);
        work(at, error.data(), cover.data() + x * count, count);
      }
    }
  }

  void difference(const float* __restrict guess, const T* __restrict pixel, float* __restrict error,
                  int64_t count) const {
    const float *center = mean.data(), *scale = std.data();
    for (int64_t i = 0; i < count; ++i) {
      float value = static_cast<float>(pixel[i]);
      if (sizeof(T) == 1) value /= 255.0f;
      error[i] = guess[i] - (value - center[i]) / scale[i];
    }
  }
};

struct Sum {
  double total = 0.0;
  int64_t count = 0;
};

// In sixteen lanes, which add in an order of their own whatever the processor; the errors are used up.
Sum add(float* __restrict error, const uint8_t* __restrict cover, int64_t count) {
  constexpr int lanes = 16;
  float sums[lanes] = {};
  Sum sum;
  for (int64_t i = 0; i < count; ++i) error[i] = cover[i] ? std::fabs(error[i]) : 0.0f;
  for (int64_t i = 0; i < count; ++i) sum.count += cover[i] & 1;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += error[i + lane];
  for (; i < count; ++i) sum.total += error[i];
  for (int lane = 0; lane < lanes; ++lane) sum.total += sums[lane];
  return sum;
}

template <typename T>
Sum sum_all(const Tensor& prediction, const Tensor& images, const Tensor& mask, const Tensor& scaling,
            int64_t threads) {
  const Errors<T> errors(prediction, images, mask, scaling);
  std::vector<Sum> sums(images.size(0));
  vitkiln_threads::share(images.size(0), threads, [&] {
    return [&](int64_t item) {
      errors.each(item, [&](int64_t, float* error, const uint8_t* cover, int64_t count) {
        const Sum some = add(error, cover, count);
        sums[item].total += some.total;
        sums[item].count += some.count;
      });
    };
  });
  Sum whole;
  for (const Sum& sum : sums) whole.total += sum.total, whole.count += sum.count;
  return whole;
}

std::tuple<Tensor, Tensor> l1(Tensor prediction, Tensor images, Tensor mask, Tensor scaling, int64_t threads) {
  const bool bytes = images.scalar_type() == ScalarType::Byte;
  const Sum sum = (bytes ? sum_all<uint8_t> : sum_all<float>)(prediction, images, mask, scaling, threads);
  Tensor total = torch::stable::new_empty(prediction, {}, ScalarType::Float);
  Tensor count = torch::stable::new_empty(prediction, {}, ScalarType::Long);
  *data<float>(total) = static_cast<float>(sum.total);
  *data<int64_t>(count) = sum.count;
  return std::make_tuple(total, count);
}

void slope(float factor, const float* __restrict error, const uint8_t* __restrict cover, float* __restrict out,
           int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float e = error[i], sign = e > 0.0f ? factor : e < 0.0f ? -factor : e * 0.0f;  // no number stays none
    out[i] = cover[i] ? sign : 0.0f;
  }
}

template <typename T>
void slopes(float factor, const Tensor& prediction, const Tensor& images, const Tensor& mask, const Tensor& scaling,
            int64_t threads, const Tensor& out) {
  const Errors<T> errors(prediction, images, mask, scaling);
  auto* grad = data<float>(out);
  vitkiln_threads::share(images.size(0), threads, [&] {
    return [&](int64_t item) {
      errors.each(item, [&](int64_t at, const float* error, const uint8_t* cover, int64_t count) {
        slope(factor, error, cover, grad + at, count);
      });
    };
  });
}

Tensor l1_gradient(Tensor factor, Tensor prediction, Tensor images, Tensor mask, Tensor scaling, int64_t threads) {
  Tensor out = torch::stable::empty_like(prediction);
  const bool bytes = images.scalar_type() == ScalarType::Byte;
  (bytes ? slopes<uint8_t> : slopes<float>)(*data<float>(factor), prediction, images, mask, scaling, threads, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def("groups_mask(Tensor seed, Tensor samples, Tensor target, Tensor rule, int threads) -> (Tensor, Tensor)");
  library.def(
      "groups_corrupt(Tensor images, Tensor mask, Tensor other, Tensor partner, Tensor seed, Tensor samples, "
      "Tensor scaling, int kind, int threads) -> Tensor");
  library.def("groups_l1(Tensor prediction, Tensor images, Tensor mask, Tensor scaling, int threads) -> (Tensor, Tensor)");
  library.def(
      "groups_l1_gradient(Tensor factor, Tensor prediction, Tensor images, Tensor mask, Tensor scaling, int threads) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) {
  library.impl("groups_mask", TORCH_BOX(&mask));
  library.impl("groups_corrupt", TORCH_BOX(&corrupt));
  library.impl("groups_l1", TORCH_BOX(&l1));
  library.impl("groups_l1_gradient", TORCH_BOX(&l1_gradient));
}
