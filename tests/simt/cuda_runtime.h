// Replaces CUDA's header when kernels are compiled for the emulator. Has the functions that cc/core/cuda uses.

#ifndef SEPARATIONFACTOR_TESTS_SIMT_CUDA_RUNTIME_H_
#define SEPARATIONFACTOR_TESTS_SIMT_CUDA_RUNTIME_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/types.h"
#include "simt/simt.h"

#define SEPARATIONFACTOR_SIMT 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx ::simt::thread_index
#define blockIdx ::simt::block_index
#define blockDim ::simt::block_size
#define gridDim ::simt::grid_size

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// ---- Device functions ----------------------------------------------------------------------------------------

inline void __syncthreads(simt::Site site = simt::Site::Here()) { simt::SyncThreads(site); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, simt::Site site = simt::Site::Here()) {
  simt::WithWarp(simt::Collective::kSyncWarp, mask, 0, 0, site);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate, simt::Site site = simt::Site::Here()) {
  return static_cast<unsigned>(simt::WithWarp(simt::Collective::kBallot, mask, predicate, 0, site));
}

namespace simt {

template <class T>
T Shuffle(Collective collective, uint32_t mask, T value, int lane, Site site) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = WithWarp(collective, mask, bits, lane, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T, class Function>
T Atomic(Pointer<T> pointer, Function function) {
  MayYield();
  Check(pointer.region(), pointer.address(), sizeof(T), alignof(T), Access::kAtomic);
  T before;
  std::memcpy(&before, pointer.address(), sizeof(T));
  const T after = function(before);
  std::memcpy(pointer.address(), &after, sizeof(T));
  return before;
}

// The device's arithmetic produces a single NaN. Kernels must not depend on its bits.
inline float OneNan(float number) {
  const uint32_t bits = 0x7FFFFFFFu;
  if (std::isnan(number)) std::memcpy(&number, &bits, sizeof(number));
  return number;
}
inline double OneNan(double number) {
  const uint64_t bits = 0x7FFFFFFFFFFFFFFFu;
  if (std::isnan(number)) std::memcpy(&number, &bits, sizeof(number));
  return number;
}

inline float FlushDenormal(float number) {
  return std::fpclassify(number) == FP_SUBNORMAL ? std::copysign(0.0f, number) : number;
}
inline float AddFlushed(float a, float b) { return FlushDenormal(OneNan(FlushDenormal(a) + FlushDenormal(b))); }
inline float MultiplyFlushed(float a, float b) { return FlushDenormal(OneNan(FlushDenormal(a) * FlushDenormal(b))); }

// float16 via float32. This rounds a sum twice, except for a sum with zero.
inline float FromHalf(uint16_t bits) { return separationfactor::Float16::ToNumber(bits); }
inline uint16_t ToHalf(float number) {
  return std::isnan(number) ? uint16_t{0x7FFF} : separationfactor::Float16::FromNumber(number);
}
inline uint16_t AddHalf(uint16_t a, uint16_t b) { return ToHalf(FromHalf(a) + FromHalf(b)); }

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, simt::Site site = simt::Site::Here()) {
  return simt::Shuffle(simt::Collective::kShuffle, mask, value, lane, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane, simt::Site site = simt::Site::Here()) {
  return simt::Shuffle(simt::Collective::kShuffleXor, mask, value, lane, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lane, simt::Site site = simt::Site::Here()) {
  return simt::Shuffle(simt::Collective::kShuffleUp, mask, value, lane, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int lane, simt::Site site = simt::Site::Here()) {
  return simt::Shuffle(simt::Collective::kShuffleDown, mask, value, lane, site);
}

inline unsigned atomicAdd(simt::Pointer<unsigned> pointer, unsigned value) {
  return simt::Atomic(pointer, [=](unsigned before) { return before + value; });
}
inline unsigned atomicOr(simt::Pointer<unsigned> pointer, unsigned value) {
  return simt::Atomic(pointer, [=](unsigned before) { return before | value; });
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline double __dmul_rn(double a, double b) { return simt::OneNan(a * b); }
inline double __dadd_rn(double a, double b) { return simt::OneNan(a + b); }

// ---- Host functions ------------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
using cudaStream_t = void*;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "cudaErrorLaunchFailure";
}
inline const char* cudaGetErrorString(cudaError_t) { return "see simt::TakeError()"; }

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  return simt::AllowShared(kernel, value) ? cudaSuccess : cudaErrorInvalidValue;
}

// The attributes of an H100.
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxGridDimX,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount            ? 132
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 * 1024
                                                                  : INT32_MAX;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream);

namespace simt {

template <class Params>
cudaError_t Launch(void (*kernel)(Params), int64_t blocks, int threads, int64_t shared_bytes, cudaStream_t,
                   const Params& params) {
  struct Context {
    void (*kernel)(Params);
    const Params* params;
  } const context{kernel, &params};
  const auto body = [](const void* pointer) {
    const auto& [kernel, params] = *static_cast<const Context*>(pointer);
    kernel(*params);
  };
  const bool done = Run(reinterpret_cast<const void*>(kernel), blocks, threads, shared_bytes, body, &context);
  return done ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace simt

#endif  // SEPARATIONFACTOR_TESTS_SIMT_CUDA_RUNTIME_H_
