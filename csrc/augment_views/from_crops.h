// Fills a tile with a crop of a picture. Device code.
//
// What lies between the passes of a crop goes into rows of the tile that are still empty, so that hundreds of rows are
// resized at once; weights, and the lines that the last rows need, go where the blur will keep its halos.
#pragma once

#include <cstddef>

#include "../crop_into.h"
#include "tile.h"

namespace views {

// Shared memory of a block: what all steps need, then `room` bytes for a crop, over the halos, then perhaps the tile.
struct Layout {
  static constexpr int64_t kHead = offsetof(Workspace, halos);
  int64_t room;

  __host__ __device__ int64_t tile() const {
    const int64_t end = most<int64_t>(sizeof(Workspace), kHead + room);
    return (end + 15) / 16 * 16;
  }
};

// Crops of a batch. Where one needs more than its block's room, it takes the block's slice of a pool in global memory.
struct Crops {
  const crop::Picture* pictures;
  const crop::Box* boxes;
  int64_t count;
  int size;
  crop::Filter filter;
  int64_t room, slice;  // multiples of four; no slice, no pool
};

template <bool kPooled>
struct FromCrops {
  Crops crops;
  unsigned char *room, *slice;  // of this block

  __device__ __forceinline__ void operator()(const Tile& tile, int64_t view) const {
    const crop::Picture picture = crops.pictures[view];
    const crop::Box box = crop::within(crops.boxes[view], picture);
    crop::Need need;
    need.add(picture, box, crops.size, crops.filter);
    const int64_t bytes = need.bytes(crops.size);
    const bool fits = !kPooled || bytes <= crops.room;
    need.lines += (fits ? crops.room : crops.slice) - bytes;
    crop::crop_into(
        picture, box, crops.size, crops.filter, need, fits ? room : slice,
        crop::Rows{tile.pixels, tile.pitch()},
        [&](int end) { return crop::Lines{tile.row(end), int64_t{tile.height - end} * tile.pitch()}; });
  }
};

}  // namespace views
