// A ParallelFor that starts its threads anew at each loop.

#ifndef SEPARATIONFACTOR_TESTS_CORE_THREADS_H_
#define SEPARATIONFACTOR_TESTS_CORE_THREADS_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "core/separate.h"

namespace separationfactor {
namespace {

ParallelFor Threads(int threads) {
  return [threads](int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
    std::vector<std::thread> pool;
    for (int64_t part = 1; part < threads; ++part) {
      const int64_t begin = total * part / threads, end = total * (part + 1) / threads;
      if (begin < end) pool.emplace_back(work, begin, end);
    }
    if (total / threads > 0) work(0, total / threads);
    for (std::thread& thread : pool) thread.join();
  };
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TESTS_CORE_THREADS_H_
