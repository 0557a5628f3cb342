// Crops on a GPU, a block for each. Arguments are checked by kernels/crop_views.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "../crop_into.h"
#include "../crop_pictures.h"
#include "../cuda_call.h"

namespace {

using crop::Box;
using crop::Need;
using crop::Picture;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using vitkiln_cuda::check;
using vitkiln_cuda::Place;

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
                  crop::Rows{out, pitch});
}

__global__ void __launch_bounds__(kThreads) cut_shared(Batch batch) {
  extern __shared__ __align__(4) uint8_t scratch[];
  cut(batch, blockIdx.x, scratch);
}

// For pictures so large that their weights need more than a block's shared memory.
__global__ void __launch_bounds__(kThreads, 1) cut_pooled(Batch batch, uint8_t* pool, int64_t bytes) {
  for (int64_t view = blockIdx.x; view < batch.count; view += gridDim.x) cut(batch, view, pool + blockIdx.x * bytes);
}

Need needed(const std::vector<Picture>& pictures, int size, crop::Filter filter) {
  Need need;
  for (const Picture& picture : pictures) need.add(picture, size, filter);
  need.lines += std::max<int64_t>(0, kComfortable - need.bytes(size));
  return need;
}

void launch(const Batch& batch, const Tensor& like, const Place& place) {
  const int64_t bytes = batch.need.bytes(batch.size);
  if (bytes <= place.limit(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
    check(cudaFuncSetAttribute(cut_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    cut_shared<<<static_cast<unsigned>(batch.count), kThreads, bytes, place.stream>>>(batch);
  } else {
    const int64_t blocks = std::min<int64_t>(batch.count, kPooled);
    const Tensor pool = torch::stable::new_empty(like, {blocks * bytes}, ScalarType::Byte);
    cut_pooled<<<static_cast<unsigned>(blocks), kThreads, 0, place.stream>>>(
        batch, static_cast<uint8_t*>(pool.data_ptr()), bytes);
  }
  check(cudaGetLastError());
}

Tensor crop_all(std::vector<Tensor> images, Tensor boxes, int64_t size, int64_t filter, int64_t /*threads*/) {
  const Place place(images[0]);
  const std::vector<Picture> pictures = crop::pictures(images);
  const int64_t count = static_cast<int64_t>(pictures.size());
  Tensor out = torch::stable::new_empty(images[0], {count, size, size, 3}, ScalarType::Byte);
  if (count == 0) return out;
  const crop::Sent sent = crop::sent(pictures, boxes, place.device);
  const int side = static_cast<int>(size);
  const auto kind = static_cast<crop::Filter>(filter);
  launch({sent.pictures, sent.boxes, count, side, kind, needed(pictures, side, kind),
          static_cast<uint8_t*>(out.data_ptr())},
         images[0], place);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CUDA, library) { library.impl("crop_views_native", TORCH_BOX(&crop_all)); }
