// Where the pixels of images lie that come one by one, or as one batch.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "../crop.h"

namespace crop_views {

// Of [H, W, 3] each, or of a [B, H, W, 3] of which there is one. Channels lie side by side.
inline std::vector<crop::Picture> pictures(const std::vector<torch::stable::Tensor>& images) {
  std::vector<crop::Picture> found;
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

}  // namespace crop_views
