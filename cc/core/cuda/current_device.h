// The calling thread's current CUDA device, for bindings.

#ifndef SEPARATIONFACTOR_CORE_CUDA_CURRENT_DEVICE_H_
#define SEPARATIONFACTOR_CORE_CUDA_CURRENT_DEVICE_H_

#include <cuda_runtime.h>

#include <string>

#include "core/cuda/separate_cuda.h"

namespace separationfactor {
namespace cuda {

// Reads the attributes of the current device. TensorFlow and XLA set it before they call a kernel or a handler.
// Returns an empty string, or the error message.
inline std::string CurrentDevice(Device* device) {
  int ordinal;
  cudaError_t error = cudaGetDevice(&ordinal);
  if (error == cudaSuccess) error = GetDevice(ordinal, device);
  if (error == cudaSuccess) return "";
  return std::string("cannot read the attributes of the CUDA device: ") + cudaGetErrorString(error);
}

}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_CURRENT_DEVICE_H_
