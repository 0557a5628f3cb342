// What calls of CUDA need around them.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

namespace vitkiln_cuda {

inline void check(cudaError_t status) { STD_TORCH_CHECK(status == cudaSuccess, cudaGetErrorString(status)); }

// The device of a tensor, made the current one for as long as this lives, and torch's stream on it.
struct Place {
  torch::stable::accelerator::DeviceGuard guard;
  int device;
  cudaStream_t stream;

  explicit Place(const torch::stable::Tensor& tensor)
      : guard(tensor.get_device_index()), device(tensor.get_device_index()) {
    void* found = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &found));
    stream = static_cast<cudaStream_t>(found);
  }

  int64_t limit(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device));
    return value;
  }
};

}  // namespace vitkiln_cuda
