// Crops on a GPU, a block for each. Arguments are checked by kernels/crop_views.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../crop_into.h"
#include "pictures.h"

namespace {

using crop::Box;
using crop::Need;
using crop::Picture;
using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;

constexpr int kThreads = 512;
constexpr int64_t kComfortable = 36 << 10;  // bytes of shared memory with which a GPU still keeps enough blocks
constexpr int kPooled = 512;                // blocks that share memory out where it cannot be shared memory

struct Batch {
  const Picture* pictures;
  const Box* boxes;
  int64_t count;
  int size;
  crop::Filter filter;
  Need need;
  uint8_t* out;
};

__device__ __forceinline__ void cut(const Batch& batch, int64_t view, uint8_t* scratch) {
  const int pitch = 3 * batch.size;
  uint8_t* out = batch.out + view * batch.size * pitch;
  crop::crop_into(batch.pictures[view], batch.boxes[view], batch.size, batch.filter, batch.need, scratch,
                  [=](int y, int x, int channel, uint8_t value) {
                    out[static_cast<int64_t>(y) * pitch + 3 * x + channel] = value;
                  });
}

__global__ void __launch_bounds__(kThreads) cut_shared(Batch batch) {
  extern __shared__ __align__(4) uint8_t scratch[];
  cut(batch, blockIdx.x, scratch);
}

// For pictures so large that their weights need more than a block's shared memory.
__global__ void __launch_bounds__(kThreads) cut_pooled(Batch batch, uint8_t* pool, int64_t bytes) {
  for (int64_t view = blockIdx.x; view < batch.count; view += gridDim.x) cut(batch, view, pool + blockIdx.x * bytes);
}

void check(cudaError_t status) { STD_TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status)); }

// The device of a tensor, made the current one for as long as this lives, and torch's stream on it.
struct Place {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Place(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* found = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &found));
    stream = static_cast<cudaStream_t>(found);
  }
};

// Pictures, and boxes that lie on the CPU, in one tensor on the device; nothing waits for the copy.
Tensor sent(const std::vector<Picture>& pictures, const Tensor& boxes, const Tensor& beside) {
  const size_t own = pictures.size() * sizeof(Picture), more = boxes.is_cpu() ? pictures.size() * sizeof(Box) : 0;
  const Tensor pinned = torch::stable::empty({static_cast<int64_t>(own + more)}, ScalarType::Byte, std::nullopt,
                                             Device(DeviceType::CPU), true);
  auto* to = static_cast<uint8_t*>(pinned.data_ptr());
  std::memcpy(to, pictures.data(), own);
  if (more) std::memcpy(to + own, boxes.data_ptr(), more);
  return torch::stable::to(pinned, Device(DeviceType::CUDA, beside.get_device_index()), true);
}

int64_t shared_bytes(const Tensor& tensor) {
  int found = 0;
  check(cudaDeviceGetAttribute(&found, cudaDevAttrMaxSharedMemoryPerBlockOptin, tensor.get_device_index()));
  return found;
}

Need needed(const std::vector<Picture>& pictures, int size, crop::Filter filter) {
  Need need;
  for (const Picture& picture : pictures) need.add(picture, size, filter);
  need.lines += std::max<int64_t>(0, kComfortable - need.bytes(size));
  return need;
}

void launch(const Batch& batch, const Tensor& like, cudaStream_t stream) {
  const int64_t bytes = batch.need.bytes(batch.size);
  if (bytes <= shared_bytes(like)) {
    check(cudaFuncSetAttribute(cut_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    cut_shared<<<static_cast<unsigned>(batch.count), kThreads, bytes, stream>>>(batch);
  } else {
    const int64_t blocks = std::min<int64_t>(batch.count, kPooled);
    const Tensor pool = torch::stable::new_empty(like, {blocks * bytes}, ScalarType::Byte);
    cut_pooled<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(batch, static_cast<uint8_t*>(pool.data_ptr()),
                                                                      bytes);
  }
  check(cudaGetLastError());
}

Tensor crop_all(std::vector<Tensor> images, Tensor boxes, int64_t size, int64_t filter, int64_t /*threads*/) {
  const Place place(images[0]);
  const std::vector<Picture> pictures = crop_views::pictures(images);
  const int64_t count = static_cast<int64_t>(pictures.size());
  Tensor out = torch::stable::new_empty(images[0], {count, size, size, 3}, ScalarType::Byte);
  if (count == 0) return out;
  const Tensor table = sent(pictures, boxes, images[0]);
  const auto* first = static_cast<const Picture*>(table.data_ptr());
  const void* box = boxes.is_cpu() ? static_cast<const void*>(first + count) : boxes.data_ptr();
  const int side = static_cast<int>(size);
  const auto kind = static_cast<crop::Filter>(filter);
  launch({first, static_cast<const Box*>(box), count, side, kind, needed(pictures, side, kind),
          static_cast<uint8_t*>(out.data_ptr())},
         images[0], place.stream);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CUDA, library) { library.impl("crop_views_native", TORCH_BOX(&crop_all)); }
