// XLA's thread pool as the core's ParallelFor, and scalars in host memory, for the handlers of the CPU.

#ifndef SEPARATIONFACTOR_XLA_HOST_POOL_H_
#define SEPARATIONFACTOR_XLA_HOST_POOL_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "core/shared_loop.h"
#include "core/types.h"
#include "xla/buffers-inl.h"

namespace separationfactor {
namespace {

// A ParallelFor on XLA's thread pool.
ParallelFor PoolOf(ffi::ThreadPool& pool, int64_t threads) {
  return ShareLoops(threads, [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
}

int ThreadsOf(const ffi::ThreadPool& pool) { return static_cast<int>(std::max<int64_t>(1, pool.num_threads())); }

double ReadScalar(const ffi::AnyBuffer& scalar) {
  double number = 0;
  WithDType(DTypeOf(scalar), [&](auto traits) {
    using T = decltype(traits);
    number = static_cast<double>(T::ToNumber(*static_cast<const typename T::Bits*>(scalar.untyped_data())));
  });
  return number;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_XLA_HOST_POOL_H_
