// Colours, blur and flips of crops on a GPU: a block of threads for each, which keeps it in shared memory in between.
//
// An image that does not fit is kept in global memory by as many blocks as the GPU holds at once.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>

#include "view.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using views::Tile;
using views::Workspace;

// View `first` + the number of the block. `elsewhere` is null where tiles are in shared memory, behind the workspace.
template <bool kShared, class Fill>
__global__ void __launch_bounds__(views::kThreads, 2)
    augment_tiles(Fill fill, const float* parameters, int64_t first, int height, int width, unsigned char* elsewhere,
                  unsigned char* out) {
  extern __shared__ __align__(16) unsigned char memory[];
  unsigned char* pixels = kShared ? memory + sizeof(Workspace) : elsewhere + blockIdx.x * Tile::bytes(height, width);
  const Tile tile{pixels, height, width};
  views::augment(tile, *reinterpret_cast<Workspace*>(memory), fill, first + blockIdx.x, parameters, out);
}

void check(cudaError_t status) { STD_TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status)); }

int limit(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// The device of a tensor, made the current one for as long as this lives, and torch's stream on it.
struct Place {
  torch::stable::accelerator::DeviceGuard guard;
  int device;
  cudaStream_t stream;

  explicit Place(const Tensor& tensor) : guard(tensor.get_device_index()), device(tensor.get_device_index()) {
    void* found = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &found));
    stream = static_cast<cudaStream_t>(found);
  }
};

struct Call {
  const unsigned char* images;
  const float* parameters;
  int64_t count;
  int height, width;
  unsigned char* out;

  int64_t tile() const { return Tile::bytes(height, width); }

  // So many blocks at a time: what a launch leaves in its tiles, the next writes over.
  template <bool kShared>
  void launch(int64_t most, int64_t shared, unsigned char* elsewhere, cudaStream_t stream) const {
    const auto kernel = augment_tiles<kShared, views::FromImages<kShared>>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
    for (int64_t first = 0; first < count; first += most) {
      const auto blocks = static_cast<unsigned>(std::min(most, count - first));
      kernel<<<blocks, views::kThreads, shared, stream>>>({images}, parameters, first, height, width, elsewhere, out);
      check(cudaGetLastError());
    }
  }
};

Tensor augment(Tensor images, Tensor parameters, int64_t /*threads*/) {
  Tensor out = torch::stable::empty_like(images);
  constexpr int64_t most = std::numeric_limits<int>::max();
  const int64_t count = images.size(0), height = images.size(1), width = images.size(2);
  STD_TORCH_CHECK(height <= most && width <= most / 16 && Tile::bytes(height, static_cast<int>(width)) <= most,
                  "an image on a GPU has at most 2 GiB, not ", height, " x ", width, " pixels");
  const Place place(images);
  const Call call{static_cast<const unsigned char*>(images.data_ptr()),
                  static_cast<const float*>(parameters.data_ptr()),
                  count,
                  static_cast<int>(height),
                  static_cast<int>(width),
                  static_cast<unsigned char*>(out.data_ptr())};
  const int64_t space = sizeof(Workspace), together = space + call.tile();
  if (together <= limit(cudaDevAttrMaxSharedMemoryPerBlockOptin, place.device)) {
    call.launch<true>(most, together, nullptr, place.stream);
    return out;
  }
  const int64_t blocks = std::min<int64_t>(count, 2 * limit(cudaDevAttrMultiProcessorCount, place.device));
  Tensor tiles = torch::stable::new_empty(images, {blocks * call.tile()}, ScalarType::Byte);
  call.launch<false>(blocks, space, static_cast<unsigned char*>(tiles.data_ptr()), place.stream);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CUDA, library) {
  library.impl("augment_views_native", TORCH_BOX(&augment));
}
