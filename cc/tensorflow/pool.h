// TensorFlow's thread pool as the core's ParallelFor.

#ifndef SEPARATIONFACTOR_TENSORFLOW_POOL_H_
#define SEPARATIONFACTOR_TENSORFLOW_POOL_H_

#include <functional>
#include <utility>

#include "core/shared_loop.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace separationfactor {

inline int ThreadsOf(::tensorflow::OpKernelContext* context) {
  return context->device()->tensorflow_cpu_worker_threads()->num_threads;
}

// TensorFlow's own ParallelFor waits for every thread that it has called.
inline ParallelFor PoolOf(::tensorflow::OpKernelContext* context) {
  auto* workers = context->device()->tensorflow_cpu_worker_threads()->workers;
  return ShareLoops(ThreadsOf(context), [workers](std::function<void()> task) { workers->Schedule(std::move(task)); });
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_POOL_H_
