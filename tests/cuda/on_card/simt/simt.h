// Replaces the emulator's header when cuda_test is compiled for a GPU. Memory and errors are those of the GPU.
//
// A GPU does not report most errors that the emulator reports. compute-sanitizer reports some of them. Each Memory is a
// separate allocation, so that compute-sanitizer detects accesses out of bounds.

#ifndef SEPARATIONFACTOR_TESTS_CUDA_ON_CARD_SIMT_SIMT_H_
#define SEPARATIONFACTOR_TESTS_CUDA_ON_CARD_SIMT_SIMT_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace simt {

// Memory that the GPU accesses in launches and the host between them. Filled with garbage, at `misalignment` bytes
// after a multiple of 256.
class Memory {
 public:
  Memory(const char* name, int64_t bytes, int granule, int misalignment = 0) : misalignment_(misalignment) {
    const int64_t size = std::max<int64_t>(bytes, granule) + misalignment;
    if (const cudaError_t error = cudaMallocManaged(&allocation_, size); error != cudaSuccess) {
      std::fprintf(stderr, "%ld bytes for %s: %s\n", size, name, cudaGetErrorString(error));
      std::exit(1);
    }
    std::memset(allocation_, 0xA5, size);
  }
  ~Memory() { cudaFree(allocation_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() { return static_cast<char*>(allocation_) + misalignment_; }
  // Only the emulator tracks initialization.
  void Initialize() {}
  bool IsInitialized() const { return true; }

 private:
  void* allocation_ = nullptr;
  int misalignment_;
};

// No-ops: a GPU has its own schedule and limits.
inline void SetSchedule(uint64_t) {}
inline void SetSharedLimit(int) {}

// Waits for the queued work. Returns the error message, or an empty string.
inline std::string TakeError() {
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace simt

#endif  // SEPARATIONFACTOR_TESTS_CUDA_ON_CARD_SIMT_SIMT_H_
