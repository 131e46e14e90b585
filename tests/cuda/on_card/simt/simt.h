// Stands in for the emulator's header where cuda_test is compiled for a card: memory and errors are the card's own.
//
// A card forgives much of what the emulator does not. compute-sanitizer, run on the test, sees some of it; each
// Memory is an allocation of its own, so that it sees accesses out of bounds too.

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

// Memory of both the host, which fills and reads it between launches, and the card: full of dirt, and `misalignment`
// bytes after a multiple of 256.
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
  // What has been written, only the emulator knows.
  void Initialize() {}
  bool IsInitialized() const { return true; }

 private:
  void* allocation_ = nullptr;
  int misalignment_;
};

// The card has its own schedule and its own limits.
inline void SetSchedule(uint64_t) {}
inline void SetSharedLimit(int) {}

// Waits for what was queued; what went wrong, or nothing.
inline std::string TakeError() {
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace simt

#endif  // SEPARATIONFACTOR_TESTS_CUDA_ON_CARD_SIMT_SIMT_H_
