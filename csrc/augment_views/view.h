// All that happens to one view on a GPU, by a block of threads. Device code.
#pragma once

#include "tile_blur.h"

namespace views {

// fill(tile, view) writes the pixels that the steps begin with; the threads meet behind it.
template <class Fill>
__device__ __forceinline__ void augment(const Tile& tile, Workspace& space, const Fill& fill, int64_t view,
                                        const float* parameters, unsigned char* out) {
  if (threadIdx.x == 0) space.row = read_row(parameters + view * kColumns);
  fill(tile, view);
  __syncthreads();
  const Row& row = space.row;
  int mean = 0;
  if (row.needs_mean()) {
    const unsigned long long sum = block_sum(change(tile, row.before, row, 0, true), space);
    mean = static_cast<int>(rounded_mean(static_cast<int64_t>(sum), static_cast<int64_t>(tile.height) * tile.width));
  }
  if (row.after) change(tile, row.after, row, mean, false);
  __syncthreads();
  if (row.blurs) {
    blur(tile, row.box, space);
    __syncthreads();
  }
  write_out(tile, row, out + view * tile.height * tile.row_bytes());
}

}  // namespace views
