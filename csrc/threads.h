// Items shared out to PyTorch's own threads: new ones would wait for those, which spin for a while after their work.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace vitkiln_threads {

// work() as many times, at once where PyTorch has the threads; what fails is thrown here.
template <typename Work>
void everywhere(int64_t times, const Work& work) {
  torch::stable::parallel_for(0, times, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work();
  });
}

// make() once in each thread, then its result on items 0 .. count-1, each thread taking the next that is left.
template <typename Make>
void share(int64_t count, int64_t threads, Make make) {
  std::atomic<int64_t> next{0};
  everywhere(std::min(threads, count), [&] {
    auto work = make();
    for (int64_t item = next++; item < count; item = next++) work(item);
  });
}

}  // namespace vitkiln_threads
