// Colours, blur and flips of crops on a GPU: a block of threads for each, which keeps it in shared memory in between.
// It may cut the crop itself.
//
// An image that does not fit is kept in global memory by as many blocks as the GPU holds at once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../crop_pictures.h"
#include "../cuda_call.h"
#include "from_crops.h"
#include "view.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using views::Crops;
using views::Layout;
using views::Tile;
using views::Workspace;
using vitkiln_cuda::check;
using vitkiln_cuda::Place;

constexpr int64_t kMost = std::numeric_limits<int>::max();
constexpr int64_t kComfortable = 24 << 10;  // bytes of a block's shared memory with which most crops do

// View `first` + the number of the block. `elsewhere` is null where tiles are in shared memory, behind the workspace.
template <bool kShared>
__global__ void __launch_bounds__(views::kThreads, 2)
    augment_tiles(views::FromImages<kShared> fill, const float* parameters, int64_t first, int height, int width,
                  unsigned char* elsewhere, unsigned char* out) {
  extern __shared__ __align__(16) unsigned char memory[];
  unsigned char* pixels = kShared ? memory + sizeof(Workspace) : elsewhere + blockIdx.x * Tile::bytes(height, width);
  const Tile tile{pixels, height, width};
  views::augment(tile, *reinterpret_cast<Workspace*>(memory), fill, first + blockIdx.x, parameters, out);
}

// The same, the views cut first. `pool` has a slice for each block, and choosing between it and room takes registers.
template <bool kShared, bool kPooled>
__global__ void __launch_bounds__(views::kThreads, kPooled ? 1 : 2)
    augment_crops(Crops crops, const float* parameters, int64_t first, unsigned char* elsewhere, unsigned char* pool,
                  unsigned char* out) {
  extern __shared__ __align__(16) unsigned char memory[];
  unsigned char* pixels =
      kShared ? memory + Layout{crops.room}.tile() : elsewhere + blockIdx.x * Tile::bytes(crops.size, crops.size);
  const Tile tile{pixels, crops.size, crops.size};
  unsigned char* slice = kPooled ? pool + blockIdx.x * crops.slice : nullptr;
  const views::FromCrops<kPooled> fill{crops, memory + Layout::kHead, slice};
  views::augment(tile, *reinterpret_cast<Workspace*>(memory), fill, first + blockIdx.x, parameters, out);
}

void check_size(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height <= kMost && width <= kMost / 16 && Tile::bytes(height, static_cast<int>(width)) <= kMost,
                  "an image on a GPU has at most 2 GiB, not ", height, " x ", width, " pixels");
}

template <typename Kernel>
Kernel* with_shared(Kernel* kernel, int64_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  return kernel;
}

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
    const auto kernel = with_shared(augment_tiles<kShared>, shared);
    for (int64_t first = 0; first < count; first += most) {
      const auto blocks = static_cast<unsigned>(std::min(most, count - first));
      kernel<<<blocks, views::kThreads, shared, stream>>>({images}, parameters, first, height, width, elsewhere, out);
      check(cudaGetLastError());
    }
  }
};

Tensor augment(Tensor images, Tensor parameters, int64_t /*threads*/) {
  Tensor out = torch::stable::empty_like(images);
  const int64_t count = images.size(0), height = images.size(1), width = images.size(2);
  check_size(height, width);
  const Place place(images);
  const Call call{static_cast<const unsigned char*>(images.data_ptr()),
                  static_cast<const float*>(parameters.data_ptr()),
                  count,
                  static_cast<int>(height),
                  static_cast<int>(width),
                  static_cast<unsigned char*>(out.data_ptr())};
  const int64_t space = sizeof(Workspace), together = space + call.tile();
  if (together <= place.limit(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
    call.launch<true>(kMost, together, nullptr, place.stream);
    return out;
  }
  const int64_t blocks = std::min<int64_t>(count, 2 * place.limit(cudaDevAttrMultiProcessorCount));
  Tensor tiles = torch::stable::new_empty(images, {blocks * call.tile()}, ScalarType::Byte);
  call.launch<false>(blocks, space, static_cast<unsigned char*>(tiles.data_ptr()), place.stream);
  return out;
}

// What a block of augment_crops has where: a tile, and room for a crop, as much as the largest needs if that exists.
struct Plan {
  bool shared_tile, pooled;
  int64_t room, slice, shared;

  Plan(int64_t tile, int64_t need, const Place& place) : slice(need) {
    constexpr int64_t least = sizeof(Workspace) - Layout::kHead;
    const int64_t whole = place.limit(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    const int64_t half = place.limit(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / 2 - 1024;  // for two blocks at once
    shared_tile = Layout{least}.tile() + tile <= whole;
    const int64_t kept = shared_tile ? tile : 0;
    const int64_t most = Layout{kComfortable}.tile() + kept <= half ? half : whole;
    room = std::clamp(need, least, std::max(least, (most - kept - Layout::kHead - 15) / 4 * 4));
    pooled = need > room;
    shared = Layout{room}.tile() + kept;
  }
};

struct CropsCall {
  Crops crops;
  const float* parameters;
  Plan plan;
  Tensor out;

  template <bool kShared, bool kPooled>
  void launch(const Place& place) const {
    const int64_t together = kShared && !kPooled ? kMost : 2 * place.limit(cudaDevAttrMultiProcessorCount);
    const int64_t most = std::min(crops.count, together);
    const Tensor tiles = memory(kShared ? 0 : most * Tile::bytes(crops.size, crops.size));
    const Tensor pool = memory(kPooled ? most * plan.slice : 0);
    const auto kernel = with_shared(augment_crops<kShared, kPooled>, plan.shared);
    for (int64_t first = 0; first < crops.count; first += most) {
      const auto blocks = static_cast<unsigned>(std::min(most, crops.count - first));
      kernel<<<blocks, views::kThreads, plan.shared, place.stream>>>(
          crops, parameters, first, static_cast<unsigned char*>(tiles.data_ptr()),
          static_cast<unsigned char*>(pool.data_ptr()), static_cast<unsigned char*>(out.data_ptr()));
      check(cudaGetLastError());
    }
  }

  Tensor memory(int64_t bytes) const { return torch::stable::new_empty(out, {bytes}, ScalarType::Byte); }

  void launch(const Place& place) const {
    if (plan.shared_tile)
      plan.pooled ? launch<true, true>(place) : launch<true, false>(place);
    else
      plan.pooled ? launch<false, true>(place) : launch<false, false>(place);
  }
};

int64_t needed(const std::vector<crop::Picture>& pictures, int size, crop::Filter filter) {
  int64_t bytes = 0;
  for (const crop::Picture& picture : pictures) {
    crop::Need need;
    need.add(picture, size, filter);
    bytes = std::max(bytes, need.bytes(size));
  }
  return bytes;
}

Tensor augment_boxes(std::vector<Tensor> images, Tensor which, Tensor boxes, int64_t size, int64_t filter,
                     Tensor parameters, int64_t /*threads*/) {
  const Place place(images[0]);
  const std::vector<crop::Picture> given = crop::pictures(images);
  const auto* number = static_cast<const int64_t*>(which.data_ptr());
  std::vector<crop::Picture> pictures;
  for (int64_t i = 0; i < boxes.size(0); ++i) pictures.push_back(given[number[i]]);
  const auto count = static_cast<int64_t>(pictures.size());
  check_size(size, size);
  Tensor out = torch::stable::new_empty(images[0], {count, size, size, 3}, ScalarType::Byte);
  if (count == 0) return out;
  const crop::Sent sent = crop::sent(pictures, boxes, place.device);
  const int side = static_cast<int>(size);
  const auto kind = static_cast<crop::Filter>(filter);
  const Plan plan(Tile::bytes(side, side), needed(given, side, kind), place);
  const Crops crops{sent.pictures, sent.boxes, count, side, kind, plan.room, plan.slice};
  CropsCall{crops, static_cast<const float*>(parameters.data_ptr()), plan, out}.launch(place);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(VITKILN_NAMESPACE, CUDA, library) {
  library.impl("augment_views_native", TORCH_BOX(&augment));
  library.impl("augment_boxes_native", TORCH_BOX(&augment_boxes));
}
