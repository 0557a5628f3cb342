// Where the pixels of images lie that come one by one, or as one batch.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <optional>
#include <vector>

#include "crop.h"

namespace crop {

// Of [H, W, 3] each, or of a [B, H, W, 3] of which there is one. Channels lie side by side.
inline std::vector<Picture> pictures(const std::vector<torch::stable::Tensor>& images) {
  std::vector<Picture> found;
  for (const auto& image : images) {
    const auto sizes = image.sizes(), strides = image.strides();
    const bool batch = sizes.size() == 4;
    const int64_t count = batch ? sizes[0] : 1, height = sizes[batch], width = sizes[batch + 1];
    const auto* pixels = static_cast<const uint8_t*>(image.data_ptr());
    const int64_t step = width > 1 ? strides[batch + 1] : 3;  // that of a single column may be anything
    for (int64_t i = 0; i < count; ++i)
      found.push_back({pixels + (batch ? i * strides[0] : 0), strides[batch], step, static_cast<int32_t>(height),
                       static_cast<int32_t>(width)});
  }
  return found;
}

// Pictures of a batch and, where they lie on the CPU, boxes: in one tensor on a GPU, for whose copy nothing waits.
struct Sent {
  torch::stable::Tensor table, boxes_there;
  const Picture* pictures;
  const Box* boxes;
};

inline Sent sent(const std::vector<Picture>& pictures, const torch::stable::Tensor& boxes, int32_t device) {
  using torch::headeronly::DeviceType;
  using torch::stable::Device;
  const size_t own = pictures.size() * sizeof(Picture), more = boxes.is_cpu() ? pictures.size() * sizeof(Box) : 0;
  const auto pinned = torch::stable::empty({static_cast<int64_t>(own + more)}, torch::headeronly::ScalarType::Byte,
                                           std::nullopt, Device(DeviceType::CPU), true);
  auto* to = static_cast<uint8_t*>(pinned.data_ptr());
  std::memcpy(to, pictures.data(), own);
  if (more) std::memcpy(to + own, boxes.data_ptr(), more);
  const auto table = torch::stable::to(pinned, Device(DeviceType::CUDA, device), true);
  const auto* first = static_cast<const uint8_t*>(table.data_ptr());
  const void* box = more ? first + own : static_cast<const uint8_t*>(boxes.data_ptr());
  return {table, boxes, reinterpret_cast<const Picture*>(first), static_cast<const Box*>(box)};
}

}  // namespace crop
