// The functions of core/separate.h for CUDA devices. The arguments are the same, with pointers to device memory.
//
//   * Results: the same bits as on the CPU, for y, dx and the sums.
//   * Execution: every function queues its kernels on the given stream and returns. It does not synchronize, allocate
//     memory or keep state.
//   * Errors: every function returns an empty string, or a message that names the kernel, the shape and the error.
//   * Launches depend only on the dtype, the number of rows, n and the device. Therefore k and the factors may be in
//     device memory, as with XLA and trained variables.
//   * Alignment: the dtype's. Rows and pointers at multiples of 16 bytes allow 16-byte accesses.
//
// docs/cuda.md describes the paths, the bytes that each moves, and the checks.

#ifndef SEPARATIONFACTOR_CORE_CUDA_SEPARATE_CUDA_H_
#define SEPARATIONFACTOR_CORE_CUDA_SEPARATE_CUDA_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "core/separate.h"

namespace separationfactor {
namespace cuda {

// The attributes of a device that the launches depend on.
struct Device {
  int multiprocessors;
  int shared_bytes;    // maximum shared memory of a block
  int64_t max_blocks;  // maximum blocks in the first dimension of a grid
};

// Reads the attributes of a device, three values that the driver caches. Callers may keep the result.
cudaError_t GetDevice(int ordinal, Device* device);

// k, 0 <= k <= n. A host value out of range is an error. A device value cannot be checked on the host: if it is out of
// range, every entry of y becomes NaN, for any factors, and nothing is selected.
struct K {
  const void* on_device = nullptr;  // an int32 or int64 in device memory, or null: `value` is k
  bool is_int64 = false;            // the type at on_device
  int64_t value = 0;
};

// A factor, in host or device memory.
struct Factor {
  const void* on_device = nullptr;  // of the rows' dtype, in device memory, or null: `value` is the factor
  double value = 0;
};

struct SeparateArgs {
  DType dtype;
  Score score;
  int64_t rows;
  int64_t n;  // entries in a row, at most 2^31 - 1
  K k;
  Factor separation;
  Factor suppression;
  const void* x;      // [rows, n]
  void* y;            // [rows, n]; may be x
  uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* scratch;      // SeparateScratchBytes, 16-byte aligned, uninitialized; null if that is 0
};

// Returns the bytes of scratch. 0 unless rows are split among blocks.
int64_t SeparateScratchBytes(DType dtype, int64_t rows, int64_t n, const Device& device);

// Computes y and the bitmask of the selected entries.
std::string Separate(const SeparateArgs& args, const Device& device, cudaStream_t stream);

struct ScaleSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  Factor separation;
  Factor suppression;
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* out;                // [rows, n]; may be v
};

// Computes out[i] = v[i] * (separation if i is selected else suppression).
std::string ScaleSelected(const ScaleSelectedArgs& args, const Device& device, cudaStream_t stream);

struct SumSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  const void* u;            // [rows, n]
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* selected_sum;       // one element of the dtype
  void* others_sum;         // one element of the dtype
  void* scratch;            // SumSelectedScratchBytes, 16-byte aligned, uninitialized
};

int64_t SumSelectedScratchBytes(int64_t rows, int64_t n);

// Computes the sums of u * v over the selected entries and over the others, in float64 and in the order that
// core/separate.h documents. Then rounds them to the dtype, the half types via float32, as TensorFlow's cast does.
std::string SumSelected(const SumSelectedArgs& args, const Device& device, cudaStream_t stream);

}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_SEPARATE_CUDA_H_
