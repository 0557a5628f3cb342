// RandAugment of pictures on a CPU, each by a thread. Arguments are checked by kernels/rand_augment.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../threads.h"
#include "picture.h"

namespace {

using torch::stable::Tensor;

Tensor layers(Tensor images, Tensor operations, int64_t red, int64_t green, int64_t blue, bool cubic, int64_t threads) {
  Tensor out = torch::stable::empty_like(images);
  const int height = static_cast<int>(images.size(1)), width = static_cast<int>(images.size(2));
  const int64_t size = static_cast<int64_t>(height) * width * 3, count = operations.size(1);
  const uint8_t fill[] = {static_cast<uint8_t>(red), static_cast<uint8_t>(green), static_cast<uint8_t>(blue)};
  const auto* from = static_cast<const uint8_t*>(images.data_ptr());
  const auto* rows = static_cast<const double*>(operations.data_ptr());
  auto* to = static_cast<uint8_t*>(out.data_ptr());
  vitkiln_threads::share(images.size(0), threads, [&] {
    return [&, picture = rand_augment::Picture(height, width)](int64_t item) mutable {
      picture.put(from + item * size);
      for (int64_t layer = 0; layer < count; ++layer)
        picture.change(rows + (item * count + layer) * rand_augment::kColumns, fill, cubic);
      picture.take(to + item * size);
    };
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(VITKILN_NAMESPACE, library) {
  library.def(
      "rand_augment_layers(Tensor images, Tensor operations, int red, int green, int blue, bool cubic, int threads) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CPU, library) {
  library.impl("rand_augment_layers", TORCH_BOX(&layers));
}
