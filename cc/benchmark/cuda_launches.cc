// What the CUDA part queues for a shape, told without a card: this stands in for the CUDA runtime under the real host
// code, writes down every launch, and reckons how many of its blocks a multiprocessor holds.
//
//   cuda_launches ARCHITECTURE < FIGURES
//
// ARCHITECTURE is a number such as 90. A line of FIGURES has a kernel's mangled name, its registers a thread and its
// static shared memory, as ptxas reports them. Written is one JSON object a line for every launch: cc/benchmark/
// cuda_evidence.py runs this, and makes tables of it.

#include <cuda_occupancy.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "core/cuda/separate_cuda.h"
#include "core/types.h"

namespace {

struct Card {
  int architecture;
  const char* name;
  int multiprocessors;
  int threads;                // of a multiprocessor
  int shared_bytes;           // of a multiprocessor
  int block_shared_bytes;     // what a block may ask for
  int reserved_shared_bytes;  // what the driver takes of a block's
};

// The largest card of each generation, and the compute capability's limits from the CUDA C++ Programming Guide.
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
// By the host's pointer; a function's, as it is filled before main.
std::map<const void*, std::string>& Names() {
  static std::map<const void*, std::string> names;
  return names;
}
std::string shape;  // what is being queued, as the beginning of a JSON object

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
  // Nothing is read or written: the kernels do not run.
  alignas(16) static char memory[16];
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (const auto& [rows, n] : kShapes) {
      const auto begin = [&, rows = rows, n = n](const char* op) {
        shape = std::string("{\"op\": \"") + op + "\", \"dtype\": \"" + NameOf(dtype) +
                "\", \"rows\": " + std::to_string(rows) + ", \"n\": " + std::to_string(n);
      };
      begin("Separate");
      cuda::SeparateArgs forward{};
      forward.dtype = dtype;
      forward.rows = rows;
      forward.n = n;
      forward.k.value = 1;
      forward.x = forward.y = forward.scratch = memory;
      forward.selected = reinterpret_cast<uint8_t*>(memory);
      std::string error = cuda::Separate(forward, device, nullptr);
      begin("ScaleSelected");
      cuda::ScaleSelectedArgs scale{};
      scale.dtype = dtype;
      scale.rows = rows;
      scale.n = n;
      scale.v = scale.out = memory;
      scale.selected = reinterpret_cast<uint8_t*>(memory);
      error += cuda::ScaleSelected(scale, device, nullptr);
      begin("SumSelected");
      cuda::SumSelectedArgs sum{};
      sum.dtype = dtype;
      sum.rows = rows;
      sum.n = n;
      sum.u = sum.v = sum.selected_sum = sum.others_sum = sum.scratch = memory;
      sum.selected = reinterpret_cast<uint8_t*>(memory);
      error += cuda::SumSelected(sum, device, nullptr);
      if (!error.empty()) {
        std::fprintf(stderr, "%s\n", error.c_str());
        std::exit(1);
      }
    }
  }
}

}  // namespace

// ---- The CUDA runtime, as far as the host code calls it --------------------------------------------------------

extern "C" {

cudaError_t cudaLaunchKernel(const void* kernel, dim3 blocks, dim3 threads, void**, size_t shared_bytes, cudaStream_t) {
  const std::string& name = Names().at(kernel);
  const auto found = figures.find(name);
  if (found == figures.end()) {
    std::fprintf(stderr, "no figures of %s\n", name.c_str());
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

// What nvcc's own launching stubs call; the host code launches through cudaLaunchKernel.
cudaError_t __cudaGetKernel(void*, const void*) { return cudaErrorNotSupported; }
cudaError_t __cudaLaunchKernel(void*, dim3, dim3, void**, size_t, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaErrorNotSupported; }

// Called before main, for what nvcc compiled: these tell which kernel a pointer stands for.
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
