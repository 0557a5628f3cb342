// Crops on a CPU. Arguments are checked by kernels/crop_views.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "../crop_cut.h"
#include "../crop_pictures.h"
#include "../threads.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor crop_all(std::vector<Tensor> images, Tensor boxes, int64_t size, int64_t filter, int64_t threads) {
  const std::vector<crop::Picture> pictures = crop::pictures(images);
  const int64_t count = static_cast<int64_t>(pictures.size());
  Tensor out = torch::stable::new_empty(boxes, {count, size, size, 3}, ScalarType::Byte);
  const auto* box = static_cast<const crop::Box*>(boxes.data_ptr());
  auto* to = static_cast<uint8_t*>(out.data_ptr());
  vitkiln_threads::share(count, threads, [&] {
    return [&, cutter = crop::Cutter(static_cast<int>(size), static_cast<crop::Filter>(filter))](
               int64_t item) mutable { cutter(pictures[item], box[item], to + item * size * size * 3); };
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def("crop_views_native(Tensor[] images, Tensor boxes, int size, int filter, int threads) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) { library.impl("crop_views_native", TORCH_BOX(&crop_all)); }
