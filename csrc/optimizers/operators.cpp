// AdamW and LARS with a moving average of the weights, one read and one write of each number, on a CPU.
// Arguments are checked by kernels/optimizers; a table holds, for each tensor, the addresses of what belongs to it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace {

using torch::stable::Tensor;

constexpr int64_t kBlock = 1 << 14;  // 64 KiB of each array

enum Column { kParameter, kGrad, kFirst, kSecond, kTeacher, kCopy, kTeacherCopy, kSize, kGroup, kMatrix, kColumns };

struct Piece {
  int64_t tensor, start, count;
};

template <typename T>
T* at(const int64_t* row, Column column) {
  return reinterpret_cast<T*>(row[column]);
}

std::vector<Piece> pieces(const int64_t* table, int64_t tensors) {
  std::vector<Piece> found;
  for (int64_t i = 0; i < tensors; ++i)
    for (int64_t start = 0, size = table[i * kColumns + kSize]; start < size; start += kBlock)
      found.push_back({i, start, std::min(kBlock, size - start)});
  return found;
}

// Contiguous runs of pieces for each thread, as every piece takes as long as another.
template <typename Work>
void over(const std::vector<Piece>& all, const Work& work) {
  torch::stable::parallel_for(0, static_cast<int64_t>(all.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(i);
  });
}

// To the nearest bfloat16, ties to even; what is no number stays none.
inline uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40u : even);
}

void copy(const float* __restrict from, uint16_t* __restrict to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = rounded(from[i]);
}

void pull(const float* __restrict p, float* __restrict t, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) t[i] += weight * (p[i] - t[i]);
}

// What follows the update while the numbers are in the cache.
void follow(const int64_t* row, int64_t start, float weight, int64_t count) {
  const float* p = at<float>(row, kParameter) + start;
  if (row[kTeacher]) pull(p, at<float>(row, kTeacher) + start, weight, count);
  if (row[kCopy]) copy(p, at<uint16_t>(row, kCopy) + start, count);
  if (row[kTeacherCopy]) copy(at<float>(row, kTeacher) + start, at<uint16_t>(row, kTeacherCopy) + start, count);
}

enum Adam { kLr, kDecay, kWeight1, kWeight2, kEps, kCorrection1, kCorrection2, kScale, kPull, kSkip, kAdam };

// The arrays are apart, and are said to be, so that the loop becomes one of vectors.
template <bool kLed>
void adamw_move(const float* h, float* __restrict p, const float* __restrict g, float* __restrict m,
                float* __restrict v, float* __restrict t, int64_t count) {
  const float keep = 1.0f - h[kLr] * h[kDecay], w1 = h[kWeight1], w2 = h[kWeight2], eps = h[kEps], pull = h[kPull];
  const float step = h[kLr] / h[kCorrection1], root = 1.0f / std::sqrt(h[kCorrection2]), scale = h[kScale];
  for (int64_t i = 0; i < count; ++i) {
    const float grad = g[i] * scale;
    const float first = m[i] + w1 * (grad - m[i]);
    const float second = v[i] + w2 * (grad * grad - v[i]);
    const float moved = p[i] * keep - step * (first / (std::sqrt(second) * root + eps));
    m[i] = first;
    v[i] = second;
    p[i] = moved;
    if (kLed) t[i] += pull * (moved - t[i]);
  }
}

void adamw(Tensor table, Tensor hyper) {
  const auto* rows = static_cast<const int64_t*>(table.data_ptr());
  const auto* numbers = static_cast<const float*>(hyper.data_ptr());
  const std::vector<Piece> all = pieces(rows, table.size(0));
  over(all, [&](int64_t item) {
    const Piece& piece = all[item];
    const int64_t* row = rows + piece.tensor * kColumns;
    const float* h = numbers + row[kGroup] * kAdam;
    if (h[kSkip] != 0.0f) return;
    float *p = at<float>(row, kParameter) + piece.start, *g = at<float>(row, kGrad) + piece.start;
    float *m = at<float>(row, kFirst) + piece.start, *v = at<float>(row, kSecond) + piece.start;
    float* t = row[kTeacher] ? at<float>(row, kTeacher) + piece.start : nullptr;
    (t ? adamw_move<true> : adamw_move<false>)(h, p, g, m, v, t, piece.count);
    if (row[kCopy]) copy(p, at<uint16_t>(row, kCopy) + piece.start, piece.count);
    if (row[kTeacherCopy]) copy(t, at<uint16_t>(row, kTeacherCopy) + piece.start, piece.count);
  });
}

enum Lars { lLr, lDecay, lMomentum, lTrust, lScale, lPull, lSkip, lLars };

struct Squares {
  double weight = 0.0, grad = 0.0;
};

Squares squares(const float* p, const float* g, float scale, float decay, int64_t count) {
  Squares sum;
  for (int64_t i = 0; i < count; ++i) {
    const float grad = g[i] * scale + decay * p[i];
    sum.weight += static_cast<double>(p[i]) * p[i];
    sum.grad += static_cast<double>(grad) * grad;
  }
  return sum;
}

// The rate of every tensor beside lr, 1 where it does not adapt; sums go piece by piece in their order.
std::vector<float> ratios(const int64_t* rows, const float* numbers, const std::vector<Piece>& all,
                          int64_t tensors) {
  std::vector<Squares> parts(all.size()), whole(tensors);
  over(all, [&](int64_t item) {
    const Piece& piece = all[item];
    const int64_t* row = rows + piece.tensor * kColumns;
    const float* h = numbers + row[kGroup] * lLars;
    if (row[kMatrix])
      parts[item] = squares(at<float>(row, kParameter) + piece.start, at<float>(row, kGrad) + piece.start, h[lScale],
                            h[lDecay], piece.count);
  });
  for (size_t i = 0; i < all.size(); ++i) {
    whole[all[i].tensor].weight += parts[i].weight;
    whole[all[i].tensor].grad += parts[i].grad;
  }
  std::vector<float> found(tensors, 1.0f);
  for (int64_t i = 0; i < tensors; ++i) {
    const float weight = std::sqrt(static_cast<float>(whole[i].weight)), grad = std::sqrt(static_cast<float>(whole[i].grad));
    const float trust = numbers[rows[i * kColumns + kGroup] * lLars + lTrust];
    if (weight > 0.0f && grad > 0.0f) found[i] = trust * weight / grad;
  }
  return found;
}

void lars_piece(const float* h, float decay, float ratio, float* __restrict p, const float* __restrict g,
                float* __restrict m, int64_t count) {
  const float lr = h[lLr], momentum = h[lMomentum], scale = h[lScale];
  for (int64_t i = 0; i < count; ++i) {
    const float moved = m[i] * momentum + (g[i] * scale + decay * p[i]) * ratio;
    m[i] = moved;
    p[i] -= lr * moved;
  }
}

void lars(Tensor table, Tensor hyper) {
  const auto* rows = static_cast<const int64_t*>(table.data_ptr());
  const auto* numbers = static_cast<const float*>(hyper.data_ptr());
  const std::vector<Piece> all = pieces(rows, table.size(0));
  const std::vector<float> rate = ratios(rows, numbers, all, table.size(0));
  over(all, [&](int64_t item) {
    const Piece& piece = all[item];
    const int64_t* row = rows + piece.tensor * kColumns;
    const float* h = numbers + row[kGroup] * lLars;
    if (h[lSkip] != 0.0f) return;
    lars_piece(h, row[kMatrix] ? h[lDecay] : 0.0f, rate[piece.tensor], at<float>(row, kParameter) + piece.start,
               at<float>(row, kGrad) + piece.start, at<float>(row, kFirst) + piece.start, piece.count);
    follow(row, piece.start, h[lPull], piece.count);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def("adamw_ema_table(Tensor table, Tensor hyper) -> ()");
  library.def("lars_ema_table(Tensor table, Tensor hyper) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) {
  library.impl("adamw_ema_table", TORCH_BOX(&adamw));
  library.impl("lars_ema_table", TORCH_BOX(&lars));
}
