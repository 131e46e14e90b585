// Tests that the emulator finds bugs. Each kernel runs once correct and once with a planted bug. The correct one must
// pass, and the other must fail with the given message, for every order of threads.

#include "simt/simt.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

using simt::Cast;
using simt::Pointer;
using simt::Shared;

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

struct Params {
  Pointer<const uint32_t> in;  // 256 numbers
  Pointer<uint32_t> out;       // 256 numbers, uninitialized
  Pointer<uint32_t> sums;      // 4 zeros
};

// The kernels read `in` and write `out`, with 2 blocks of 64 threads and 1024 bytes of shared memory.

template <bool kBug>
void DivergentBarrier(Params p) {
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x] = p.in[threadIdx.x];
  if (kBug && threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  p.out[blockIdx.x * 64 + threadIdx.x] = shared[63 - threadIdx.x];
}

template <bool kBug>
void EndBeforeBarrier(Params p) {
  if (kBug && threadIdx.x >= 60) return;
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}

template <bool kBug>
void EndBeforeBallot(Params p) {
  if (threadIdx.x >= 48) {
    p.out[blockIdx.x * 64 + threadIdx.x] = 0;
    if (kBug) return;
  }
  const unsigned ballot = __ballot_sync(kAllLanes, p.in[threadIdx.x] % 2 == 0);
  if (threadIdx.x < 48) p.out[blockIdx.x * 64 + threadIdx.x] = ballot;
}

template <bool kBug>
void ShuffleInBranch(Params p) {
  uint32_t number = p.in[threadIdx.x];
  if (threadIdx.x % 32 < 16) number += __shfl_xor_sync(kBug ? kAllLanes : 0xFFFFu, number, 1);
  __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = number;
}

template <bool kBug>
void ShuffleFromOutsideTheMask(Params p) {
  uint32_t number = p.in[threadIdx.x];
  if (threadIdx.x % 32 < 16) number += __shfl_sync(0xFFFFu, number, kBug ? 20 : 5);
  p.out[blockIdx.x * 64 + threadIdx.x] = number;
}

template <bool kBug>
void NotInItsMask(Params p) {
  const unsigned mask = kBug && threadIdx.x % 32 >= 16 ? 0xFFFFu : kAllLanes;
  p.out[blockIdx.x * 64 + threadIdx.x] = __ballot_sync(mask, p.in[threadIdx.x] != 0);
}

template <bool kBug>
void ShuffleElsewhere(Params p) {
  uint32_t number = p.in[threadIdx.x];
  if (kBug && threadIdx.x == 7) {
    number += __shfl_xor_sync(kAllLanes, number, 1);
  } else {
    number += __shfl_xor_sync(kAllLanes, number, 1);
  }
  p.out[blockIdx.x * 64 + threadIdx.x] = number;
}

template <bool kBug>
void ReadOutOfBounds(Params p) {
  p.out[blockIdx.x * 64 + threadIdx.x] = p.in[blockIdx.x * 192 + threadIdx.x + (kBug ? 1 : 0)];
}

template <bool kBug>
void WriteOutOfBounds(Params p) {
  p.out[blockIdx.x * 192 + threadIdx.x + (kBug ? 1 : 0)] = p.in[threadIdx.x];
}

template <bool kBug>
void SharedOutOfBounds(Params p) {
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x + (kBug ? 193 : 192)] = p.in[threadIdx.x];
  __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = 0;
}

template <bool kBug>
void ReadUninitialized(Params p) {
  if (!kBug) p.out[blockIdx.x * 64 + threadIdx.x] = 1;
  p.out[blockIdx.x * 64 + threadIdx.x] = p.out[blockIdx.x * 64 + threadIdx.x] + p.in[threadIdx.x];
}

template <bool kBug>
void SharedUninitialized(Params p) {
  // The contents that an earlier block left count as uninitialized too.
  const auto shared = Shared<uint32_t>(0);
  if (!kBug || threadIdx.x % 2 == 0) shared[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x];
}

template <bool kBug>
void AtomicOnUninitialized(Params p) {
  if (!kBug && threadIdx.x == 0) p.out[blockIdx.x] = 0;
  __syncthreads();
  atomicAdd(p.out + blockIdx.x, p.in[threadIdx.x]);
}

template <bool kBug>
void NoBarrierAfterWrite(Params p) {
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();  // initialized here, so that only the order is wrong below
  shared[threadIdx.x] = p.in[threadIdx.x + 64];
  if (!kBug) __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = shared[(threadIdx.x + 32) % 64];
}

template <bool kBug>
void NoBarrierBeforeWrite(Params p) {
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  const uint32_t number = shared[63 - threadIdx.x];
  if (!kBug) __syncthreads();
  shared[threadIdx.x] = number;
  p.out[blockIdx.x * 64 + threadIdx.x] = number;
}

template <bool kBug>
void TwoWrites(Params p) {
  p.out[blockIdx.x * 64 + (kBug ? threadIdx.x / 2 : threadIdx.x)] = p.in[0];
}

// A shuffle does not order memory.
template <bool kBug>
void NoSyncWarp(Params p) {
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x] = p.in[threadIdx.x];
  __shfl_xor_sync(kAllLanes, 0u, 1);
  if (!kBug) __syncwarp();
  p.out[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x ^ 1];
}

// __syncwarp orders memory only within its warp.
template <bool kBug>
void SyncWarpForBlock(Params p) {
  const auto shared = Shared<uint32_t>(0);
  shared[threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  shared[threadIdx.x] = p.in[threadIdx.x + 64];
  __syncwarp();
  p.out[blockIdx.x * 64 + threadIdx.x] = shared[threadIdx.x ^ (kBug ? 32 : 1)];
}

template <bool kBug>
void RaceOfBlocks(Params p) {
  p.out[(kBug ? 0 : blockIdx.x * 64) + threadIdx.x] = p.in[threadIdx.x];
}

// The writes of another block may or may not be visible.
template <bool kBug>
void ReadOfAnotherBlock(Params p) {
  p.out[blockIdx.x * 64 + threadIdx.x] = p.in[threadIdx.x];
  __syncthreads();
  const unsigned block = kBug ? 1 - blockIdx.x : blockIdx.x;
  p.out[128 + blockIdx.x * 64 + threadIdx.x] = p.out[block * 64 + threadIdx.x];
}

template <bool kBug>
void AddWithoutAtomic(Params p) {
  if (kBug) {
    p.sums[0] = p.sums[0] + p.in[threadIdx.x];
  } else {
    atomicAdd(p.sums, p.in[threadIdx.x]);
  }
}

template <bool kBug>
void ReadBesideAtomics(Params p) {
  atomicAdd(p.sums + blockIdx.x, p.in[threadIdx.x]);
  if (!kBug) __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = p.sums[blockIdx.x];
}

template <bool kBug>
void MisalignedVector(Params p) {
  const uint4 numbers = Cast<const uint4>(p.in + (kBug ? 4 * (threadIdx.x % 16) + 2 : 4 * (threadIdx.x % 16)))[0];
  p.out[blockIdx.x * 64 + threadIdx.x] = numbers.x + numbers.w;
}

template <bool kBug>
void MisalignedWord(Params p) {
  const auto bytes = Cast<uint8_t>(Shared<uint32_t>(0));
  Cast<uint16_t>(bytes + (4 * threadIdx.x + (kBug ? 1 : 2)))[0] = static_cast<uint16_t>(1);
  p.out[blockIdx.x * 64 + threadIdx.x] = p.in[threadIdx.x];
}

template <bool kBug>
void Endless(Params p) {
  const auto shared = Shared<uint32_t>(0);
  if (threadIdx.x == 0) shared[0] = kBug ? 0 : 1;
  __syncthreads();
  while (shared[0] == 0) __syncthreads();
  p.out[blockIdx.x * 64 + threadIdx.x] = p.in[threadIdx.x];
}

int failures = 0;

void Expect(const char* name, void (*kernel)(Params), uint64_t schedule, const char* words,
            int64_t shared_bytes = 1024) {
  simt::Memory in("in", 1024, 4), out("out", 1024, 4), sums("sums", 16, 4);
  for (uint32_t i = 0; i < 256; ++i) reinterpret_cast<uint32_t*>(in.data())[i] = i;
  in.Initialize();
  cudaMemsetAsync(sums.data(), 0, 16, nullptr);
  simt::SetSchedule(schedule);
  const Params params{simt::Find<const uint32_t>(in.data()), simt::Find<uint32_t>(out.data()),
                      simt::Find<uint32_t>(sums.data())};
  const bool passed = simt::Launch(kernel, 2, 64, shared_bytes, nullptr, params) == cudaSuccess;
  const std::string error = simt::TakeError();
  if (words == nullptr ? !passed : passed || error.find(words) == std::string::npos) {
    std::fprintf(stderr, "%s, schedule %d: expected %s, found %s\n", name, static_cast<int>(schedule),
                 words == nullptr ? "nothing" : words, passed ? "nothing" : error.c_str());
    ++failures;
  } else if (words != nullptr && schedule == 0) {
    std::printf("%s: %s\n", name, error.c_str());
  }
}

#define EXPECT(kernel, words)                                       \
  for (uint64_t schedule = 0; schedule < 12; ++schedule) {          \
    Expect(#kernel, kernel<false>, schedule, nullptr);              \
    Expect(#kernel " with its bug", kernel<true>, schedule, words); \
  }

}  // namespace

int main() {
  EXPECT(DivergentBarrier, "divergent barrier");
  EXPECT(EndBeforeBarrier, "divergent barrier");
  EXPECT(EndBeforeBallot, "inactive lane");
  EXPECT(ShuffleInBranch, "inactive lane");
  EXPECT(ShuffleFromOutsideTheMask, "not in the mask");
  EXPECT(NotInItsMask, "mask");
  EXPECT(ShuffleElsewhere, "which waits with mask");
  EXPECT(ReadOutOfBounds, "out of bounds: read");
  EXPECT(WriteOutOfBounds, "out of bounds: write");
  EXPECT(SharedOutOfBounds, "out of bounds: write of 4 bytes at byte 1024");
  EXPECT(ReadUninitialized, "uninitialized: read");
  EXPECT(SharedUninitialized, "uninitialized: read of shared memory");
  EXPECT(AtomicOnUninitialized, "uninitialized: atomic");
  EXPECT(NoBarrierAfterWrite, "race");
  EXPECT(NoBarrierBeforeWrite, "race");
  EXPECT(TwoWrites, "race: write");
  EXPECT(NoSyncWarp, "race");
  EXPECT(SyncWarpForBlock, "race");
  EXPECT(RaceOfBlocks, "race");
  // The first block to run reads memory that the other has not written yet. The second would read initialized memory.
  EXPECT(ReadOfAnotherBlock, "of out at byte");
  EXPECT(AddWithoutAtomic, "race");
  EXPECT(ReadBesideAtomics, "race");
  EXPECT(MisalignedVector, "misaligned: read of 16 bytes");
  EXPECT(MisalignedWord, "misaligned: write of 2 bytes");

  Expect("Endless", Endless<false>, 2, nullptr);
  Expect("Endless with its bug", Endless<true>, 2, "endless");

  // More shared memory than the default limit, and more than the GPU has.
  const auto kernel = RaceOfBlocks<false>;
  Expect("50 KB not asked for", kernel, 0, "launch", 50 * 1024);
  const bool allowed = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, 50 * 1024) == cudaSuccess;
  Expect("50 KB asked for", kernel, 0, allowed ? nullptr : "leave", 50 * 1024);
  if (cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                           228 * 1024) == cudaSuccess) {
    std::fprintf(stderr, "a kernel was allowed more shared memory than there is\n");
    ++failures;
  }
  if (failures == 0) std::puts("simt_test: all passed");
  return failures == 0 ? 0 : 1;
}
