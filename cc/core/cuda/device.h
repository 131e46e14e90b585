// The CUDA features that the kernels use. The same kernels compile as host code: the tests run them on an emulator
// (tests/simt) whose cuda_runtime.h has the same names.
//
//   * Kernels access memory only through Pointer. With nvcc it is a plain pointer. The emulator's checks every access.
//   * Shared memory is dynamic. Each kernel takes one plain struct.
//   * Kernels use shuffles, ballots, barriers and integer atomics, which every GPU since 2017 has.
//   * Inline PTX is limited to operations without a CUDA function: sums and products that flush denormals for any
//     compiler flags, and float16 arithmetic on bits.

#ifndef SEPARATIONFACTOR_CORE_CUDA_DEVICE_H_
#define SEPARATIONFACTOR_CORE_CUDA_DEVICE_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace separationfactor {
namespace cuda {
namespace {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

#if defined(SEPARATIONFACTOR_SIMT)

using simt::AddFlushed;
using simt::AddHalf;
using simt::BytesIntoWord;
using simt::Cast;
using simt::FromHalf;
using simt::IsWide;
using simt::MultiplyFlushed;
using simt::Pointer;
using simt::Shared;
using simt::ToHalf;

// Converts an address in device memory to a Pointer.
template <class T>
Pointer<T> ToDevice(const void* address) {
  return simt::Find<T>(address);
}

#else

template <class T>
using Pointer = T*;

template <class T>
Pointer<T> ToDevice(const void* address) {
  return static_cast<T*>(const_cast<void*>(address));
}

template <class To, class From>
__device__ __forceinline__ To* Cast(From* pointer) {
  return reinterpret_cast<To*>(pointer);
}

// Whether the pointer is aligned for 16-byte accesses.
template <class T>
__device__ __forceinline__ bool IsWide(const T* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// The offset of the pointer within its 4-byte word.
template <class T>
__device__ __forceinline__ int BytesIntoWord(const T* pointer) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(pointer) % 4);
}

__device__ __forceinline__ unsigned char* SharedBytes() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

// The block's shared memory, from a byte offset.
template <class T>
__device__ __forceinline__ T* Shared(int offset) {
  return reinterpret_cast<T*>(SharedBytes() + offset);
}

// Flush denormal operands and results to zeros of their sign. A NaN result is 0x7FFFFFFF.
__device__ __forceinline__ float AddFlushed(float a, float b) {
  float sum;
  asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(sum) : "f"(a), "f"(b));
  return sum;
}
__device__ __forceinline__ float MultiplyFlushed(float a, float b) {
  float product;
  asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(product) : "f"(a), "f"(b));
  return product;
}
// float16 arithmetic on bits. Denormals are kept. A NaN result is 0x7FFF.
__device__ __forceinline__ uint16_t AddHalf(uint16_t a, uint16_t b) {
  uint16_t sum;
  asm("add.rn.f16 %0, %1, %2;" : "=h"(sum) : "h"(a), "h"(b));
  return sum;
}
__device__ __forceinline__ float FromHalf(uint16_t bits) {
  float number;
  asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
  return number;
}
__device__ __forceinline__ uint16_t ToHalf(float number) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
  return bits;
}

#endif

template <class Params>
cudaError_t Launch(void (*kernel)(Params), int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
                   Params params) {
  // More than 48 KB of shared memory must be requested explicitly.
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
  }
#if defined(SEPARATIONFACTOR_SIMT)
  return simt::Launch(kernel, blocks, threads, shared_bytes, stream, params);
#else
  void* arguments[] = {&params};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)), dim3(threads),
                          arguments, static_cast<size_t>(shared_bytes), stream);
#endif
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_DEVICE_H_
