// Lists the launches for a shape without a GPU. Replaces the CUDA runtime under the real host code, records every
// launch, and computes how many of its blocks fit a multiprocessor.
//
//   cuda_launches ARCHITECTURE < FIGURES
//
// ARCHITECTURE is a number such as 90. A line of FIGURES has a kernel's mangled name, its registers per thread and its
// static shared memory, as ptxas reports them. The output is one JSON object per line for every launch.
// cc/benchmark/cuda_evidence.py runs this program and formats its output as tables.

#include <cuda_occupancy.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "core/arguments.h"
#include "core/cuda/separate_cuda.h"
#include "core/types.h"

namespace {

struct Card {
  int architecture;
  const char* name;
  int multiprocessors;
  int threads;                // per multiprocessor
  int shared_bytes;           // per multiprocessor
  int block_shared_bytes;     // maximum of a block
  int reserved_shared_bytes;  // reserved by the driver, per block
};

// The largest GPU of each generation. The limits are those of its compute capability in the CUDA C++ Programming Guide.
constexpr Card kCards[] = {
    {70, "V100", 80, 2048, 96 << 10, 96 << 10, 0},           {75, "T4", 40, 1024, 64 << 10, 64 << 10, 0},
    {80, "A100", 108, 2048, 164 << 10, 163 << 10, 1 << 10},  {90, "H100", 132, 2048, 228 << 10, 227 << 10, 1 << 10},
    {100, "B200", 148, 2048, 228 << 10, 227 << 10, 1 << 10}, {120, "RTX 5090", 170, 1536, 100 << 10, 99 << 10, 1 << 10},
};

struct Figures {
  int registers;
  size_t shared_bytes;
};

const Card* card;
std::map<std::string, Figures> figures;
// Kernel names by host pointer. A function-local static, because it is filled before main.
std::map<const void*, std::string>& Names() {
  static std::map<const void*, std::string> names;
  return names;
}
std::string shape;  // the op and shape being queued, as the start of a JSON object

int BlocksAMultiprocessor(const Figures& kernel, int threads, size_t dynamic_bytes) {
  cudaOccDeviceProp properties;
  properties.computeMajor = card->architecture / 10;
  properties.computeMinor = card->architecture % 10;
  properties.maxThreadsPerBlock = 1024;
  properties.maxThreadsPerMultiprocessor = card->threads;
  properties.regsPerBlock = properties.regsPerMultiprocessor = 65536;
  properties.warpSize = 32;
  properties.sharedMemPerBlock = 48 << 10;
  properties.sharedMemPerMultiprocessor = card->shared_bytes;
  properties.numSms = card->multiprocessors;
  properties.sharedMemPerBlockOptin = card->block_shared_bytes;
  properties.reservedSharedMemPerBlock = card->reserved_shared_bytes;
  cudaOccFuncAttributes attributes;
  attributes.maxThreadsPerBlock = 1024;
  attributes.numRegs = kernel.registers;
  attributes.sharedSizeBytes = kernel.shared_bytes;
  attributes.partitionedGCConfig = PARTITIONED_GC_OFF;
  attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  attributes.maxDynamicSharedSizeBytes = dynamic_bytes;
  attributes.numBlockBarriers = 1;
  const cudaOccDeviceState state;
  cudaOccResult result;
  const cudaOccError error =
      cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state, threads, dynamic_bytes);
  if (error != CUDA_OCC_SUCCESS) {
    std::fprintf(stderr, "cuda_occupancy.h: error %d\n", error);
    std::exit(1);
  }
  return result.activeBlocksPerMultiprocessor;
}

void QueueAll() {
  using namespace separationfactor;
  const cuda::Device device{card->multiprocessors, card->block_shared_bytes, 2147483647};
  struct Shape {
    int64_t rows, n;
  };
  constexpr Shape kShapes[] = {{65536, 10},  {65536, 32},   {4096, 64},  {4096, 256},  {1024, 1000}, {1024, 4000},
                               {256, 16384}, {4096, 24576}, {64, 32768}, {64, 131072}, {8, 1000000}, {1, 16777216}};
  // A placeholder: the kernels do not run, so it is neither read nor written.
  alignas(16) static char memory[16];
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (const auto& [rows, n] : kShapes) {
      const auto begin = [&, rows = rows, n = n](const char* op) {
        shape = std::string("{\"op\": \"") + op + "\", \"dtype\": \"" + NameOf(dtype) +
                "\", \"rows\": " + std::to_string(rows) + ", \"n\": " + std::to_string(n);
      };
      begin("Separate");
      const RowsSpec spec = {dtype, rows, n};
      const cuda::Factor factor;
      auto forward = MakeSeparateArgs<cuda::SeparateArgs>(spec, Score::kValue, cuda::K{nullptr, false, 1}, factor,
                                                          factor, memory, memory, memory);
      forward.scratch = memory;
      std::string error = cuda::Separate(forward, device, nullptr);
      begin("ScaleSelected");
      const auto scale = MakeScaleSelectedArgs<cuda::ScaleSelectedArgs>(spec, factor, factor, memory, memory, memory);
      error += cuda::ScaleSelected(scale, device, nullptr);
      begin("SumSelected");
      auto sum = MakeSumSelectedArgs<cuda::SumSelectedArgs>(spec, memory, memory, memory);
      sum.selected_sum = sum.others_sum = sum.scratch = memory;
      error += cuda::SumSelected(sum, device, nullptr);
      if (!error.empty()) {
        std::fprintf(stderr, "%s\n", error.c_str());
        std::exit(1);
      }
    }
  }
}

}  // namespace

// ---- The CUDA runtime functions that the host code calls -------------------------------------------------------

extern "C" {

cudaError_t cudaLaunchKernel(const void* kernel, dim3 blocks, dim3 threads, void**, size_t shared_bytes, cudaStream_t) {
  const std::string& name = Names().at(kernel);
  const auto found = figures.find(name);
  if (found == figures.end()) {
    std::fprintf(stderr, "no figures for %s\n", name.c_str());
    std::exit(1);
  }
  std::printf(
      "%s, \"kernel\": \"%s\", \"blocks\": %u, \"threads\": %u, \"shared_bytes\": %zu, "
      "\"blocks_a_multiprocessor\": %d, \"card\": \"%s\", \"max_threads\": %d}\n",
      shape.c_str(), name.c_str(), blocks.x, threads.x, shared_bytes,
      BlocksAMultiprocessor(found->second, static_cast<int>(threads.x), shared_bytes), card->name, card->threads);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int) { return cudaErrorNoDevice; }
const char* cudaGetErrorName(cudaError_t) { return ""; }
const char* cudaGetErrorString(cudaError_t) { return ""; }

// Called by nvcc's launch stubs. The host code launches through cudaLaunchKernel instead.
cudaError_t __cudaGetKernel(void*, const void*) { return cudaErrorNotSupported; }
cudaError_t __cudaLaunchKernel(void*, dim3, dim3, void**, size_t, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaErrorNotSupported; }

// Called before main for every kernel that nvcc compiled. They give the kernel's name for a host pointer.
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  Names()[host] = name;
}

}  // extern "C"

int main(int argc, char** argv) {
  for (const Card& known : kCards) {
    if (argc == 2 && std::to_string(known.architecture) == argv[1]) card = &known;
  }
  if (card == nullptr) {
    std::fprintf(stderr, "usage: %s ARCHITECTURE, one of", argv[0]);
    for (const Card& known : kCards) std::fprintf(stderr, " %d", known.architecture);
    std::fprintf(stderr, "\n");
    return 2;
  }
  Figures kernel;
  for (std::string name; std::cin >> name >> kernel.registers >> kernel.shared_bytes;) figures[name] = kernel;
  QueueAll();
  return 0;
}
