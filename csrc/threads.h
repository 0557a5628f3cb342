// Items shared out to threads, one at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace vitkiln_threads {

// work() in every thread, this one included; what the first to fail throws is thrown here.
template <typename Work>
void everywhere(int64_t threads, Work work) {
  std::exception_ptr failure;
  std::mutex failing;
  auto guarded = [&] {
    try {
      work();
    } catch (...) {
      std::lock_guard<std::mutex> lock(failing);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < threads; ++i) others.emplace_back(guarded);
  } catch (const std::system_error&) {
    // fewer threads than wished for do the same work
  }
  guarded();
  for (std::thread& thread : others) thread.join();
  if (failure) std::rethrow_exception(failure);
}

// make() once in each thread, then its result on items 0 .. count-1.
template <typename Make>
void share(int64_t count, int64_t threads, Make make) {
  std::atomic<int64_t> next{0};
  everywhere(threads < count ? threads : count, [&] {
    auto work = make();
    for (int64_t item = next++; item < count; item = next++) work(item);
  });
}

}  // namespace vitkiln_threads
