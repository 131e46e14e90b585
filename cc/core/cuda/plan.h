// Which path rows take, and with which launch parameters.

#ifndef SEPARATIONFACTOR_CORE_CUDA_PLAN_H_
#define SEPARATIONFACTOR_CORE_CUDA_PLAN_H_

#include <cstdint>

#include "core/cuda/separate_cuda.h"
#include "core/separate.h"

namespace separationfactor {
namespace cuda {
namespace {

SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t Greater(int64_t a, int64_t b) { return a > b ? a : b; }
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }
constexpr int ElementBytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Radix selection goes by digits of 11 bits: a float32's first has sign, exponent and two bits of the fraction.
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
// Digits of a key, from the top.
constexpr int KeyDigits(DType dtype) { return static_cast<int>(CeilDiv(8 * ElementBytes(dtype), kDigitBits)); }

enum class Path {
  kThread,  // a thread a row
  kWarp,    // 4 to 32 lanes of a warp a row
  kBlock,   // a block a row
  kSplit,   // several blocks a row
};

constexpr int kLongestThreadRow = 32;
// A lane has 255 registers at most: room for 32 keys of 32 bits and what they were made of, or for 16 of 64 bits.
constexpr int64_t LongestWarpRow(DType dtype) { return dtype == DType::kFloat64 ? 512 : 1024; }
// Rows that are few leave most of the card idle, if they are a block each. Sharing a row takes half a dozen launches
// more, so it must be long.
constexpr int kShortestSplitRow = 40960;
constexpr int kMultiprocessorsASplitRow = 8;

constexpr int kThreadPathThreads = 128;
constexpr int kWarpPathThreads = 128;
constexpr int kMaxBlockThreads = 1024;
constexpr int kSplitThreads = 512;
constexpr int kCandidateThreads = kMaxBlockThreads;

// Shared memory of a block besides the row: counts of digits, and what its warps tell each other.
constexpr int kExchangeBytes = 256;
constexpr int kRadixBytes = kDigits * 4 + kExchangeBytes;
constexpr int64_t BlockPathSharedBytes(DType dtype, int64_t n) {
  return RoundUp(n * ElementBytes(dtype), 16) + kRadixBytes;
}

// Of the shape, the dtype and the device alone, as k may be where the host cannot see it. The limits are what
// `cuda_limits` found on an H200; docs/cuda.md has its figures.
inline Path ChoosePath(DType dtype, int64_t rows, int64_t n, const Device& device) {
  if (n <= kLongestThreadRow) return Path::kThread;
  if (n <= LongestWarpRow(dtype)) return Path::kWarp;
  if (BlockPathSharedBytes(dtype, n) > device.shared_bytes) return Path::kSplit;
  if (n >= kShortestSplitRow && kMultiprocessorsASplitRow * rows <= device.multiprocessors) return Path::kSplit;
  return Path::kBlock;
}

// The warp path keeps 16 entries a lane in registers, 32 where 32 lanes need it, and three quarters of either where
// they do; the search goes over all that are kept. They are whole vectors.
constexpr int LanesOfRow(int64_t n) { return n <= 64 ? 4 : n <= 128 ? 8 : n <= 256 ? 16 : 32; }
constexpr int EntriesOfLane(DType dtype, int64_t n) {
  const int most = n <= 512 ? 16 : 32, fewer = most * 3 / 4;
  return fewer * ElementBytes(dtype) % 16 == 0 && fewer * LanesOfRow(n) >= n ? fewer : most;
}

// 16 entries a thread, rounded up to a power of two: whole warps, and a whole number of digits a thread.
inline int BlockPathThreads(int64_t n) {
  int threads = 128;
  while (threads < kMaxBlockThreads && threads * 16 < n) threads *= 2;
  return threads;
}

// How rows are shared out among blocks.
struct Split {
  int64_t segment;     // entries that a block takes of a row; the last of a row may be shorter
  int64_t segments;    // in a row
  int64_t batch;       // rows that are worked on at a time: this bounds the scratch
  int64_t candidates;  // places for entries of a row that the first pass leaves undecided
};

inline Split ChooseSplit(int64_t rows, int64_t n, const Device& device) {
  // 512 threads each, four blocks fill a multiprocessor.
  const int64_t blocks_a_row = CeilDiv(4 * device.multiprocessors, Greater(1, rows));
  // A segment is a whole number of bytes of the bitmask and of 16-byte vectors, and long enough that adding its
  // counts to the row's does not show.
  const int64_t segment = RoundUp(CeilDiv(n, blocks_a_row), 4096);
  const int64_t segments = CeilDiv(n, segment);
  const int64_t batch = Smaller(rows, CeilDiv(64 * device.multiprocessors, segments));
  // No first digit of normal scores has more than 5.4 % of them, or 10.7 % of their magnitudes.
  return {segment, segments, batch, n / 8};
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_PLAN_H_
