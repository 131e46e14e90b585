// What core/separate.h does, on a CUDA device: the same arguments, on pointers to device memory.
//
// The results are the CPU's, bit for bit, y, dx and sums alike. Every function queues its kernels on the stream it
// is given and returns: it waits for nothing, allocates nothing and keeps nothing. Each returns an empty string, or
// what went wrong with which kernel on which shape. What the launches are depends on the dtype, the rows, n and the
// device alone, so that k and the factors may lie in device memory, where XLA and trained variables have them.
//
// Any alignment that the dtype has will do; rows and pointers at multiples of 16 bytes make for wide accesses. The
// paths, the bytes that each moves, and what has been checked without a card: docs/cuda.md.

#ifndef SEPARATIONFACTOR_CORE_CUDA_SEPARATE_CUDA_H_
#define SEPARATIONFACTOR_CORE_CUDA_SEPARATE_CUDA_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "core/separate.h"

namespace separationfactor {
namespace cuda {

// What the launches depend on.
struct Device {
  int multiprocessors;
  int shared_bytes;    // shared memory that a block may ask for
  int64_t max_blocks;  // blocks in a grid's first dimension
};

// The attributes of a device: three reads of what the driver has at hand. Callers may keep the result.
cudaError_t GetDevice(int ordinal, Device* device);

// k, 0 <= k <= n. The host's value is checked. One that only the device knows cannot be, so if it is out of range
// every entry of y becomes NaN, whatever the factors are, and nothing is selected: a wrong k does not go unseen.
struct K {
  const void* on_device = nullptr;  // an int32 or int64 in device memory; if null, `value` is k
  bool is_int64 = false;            // what on_device points to
  int64_t value = 0;
};

// A factor.
struct Factor {
  const void* on_device = nullptr;  // of the rows' dtype, in device memory; if null, `value` is the factor
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
  void* y;            // [rows, n]; may be x itself
  uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* scratch;      // SeparateScratchBytes, aligned to 16 bytes, with any contents; null if that is 0
};

// Bytes of scratch: 0 unless several blocks share a row.
int64_t SeparateScratchBytes(DType dtype, int64_t rows, int64_t n, const Device& device);

// y and the bitmask of the selected entries.
std::string Separate(const SeparateArgs& args, const Device& device, cudaStream_t stream);

struct ScaleSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  Factor separation;
  Factor suppression;
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* out;                // [rows, n]; may be v itself
};

// out[i] = v[i] * (separation if i is selected else suppression).
std::string ScaleSelected(const ScaleSelectedArgs& args, const Device& device, cudaStream_t stream);

struct SumSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  const void* u;            // [rows, n]
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* selected_sum;       // one element of the dtype
  void* others_sum;         // another
  void* scratch;            // SumSelectedScratchBytes, aligned to 16 bytes, with any contents
};

int64_t SumSelectedScratchBytes(int64_t rows, int64_t n);

// The sums of u * v over the selected entries and over the others, made and added in float64 in the order that
// core/separate.h documents, then rounded to the dtype (the half types by way of float32, as TensorFlow casts).
std::string SumSelected(const SumSelectedArgs& args, const Device& device, cudaStream_t stream);

}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_SEPARATE_CUDA_H_
