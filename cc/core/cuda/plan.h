// Selects the path and the launch parameters for a shape.

#ifndef SEPARATIONFACTOR_CORE_CUDA_PLAN_H_
#define SEPARATIONFACTOR_CORE_CUDA_PLAN_H_

#include <cstdint>

#include "core/cuda/separate_cuda.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace cuda {
namespace {

SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t Greater(int64_t a, int64_t b) { return a > b ? a : b; }
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// The digits of radix selection have 11 bits. The first digit of a float32 holds the sign, the exponent and two bits of
// the fraction.
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
// The number of digits in a key.
constexpr int KeyDigits(DType dtype) { return static_cast<int>(CeilDiv(8 * ElementBytes(dtype), kDigitBits)); }

enum class Path {
  kThread,  // one thread per row
  kWarp,    // 4 to 32 lanes of a warp per row
  kBlock,   // one block per row
  kSplit,   // several blocks per row
};

constexpr int kLongestThreadRow = 32;
// A lane has at most 255 registers: enough for 32 entries of 32 bits and their keys, or for 16 of 64 bits.
constexpr int64_t LongestWarpRow(DType dtype) { return dtype == DType::kFloat64 ? 512 : 1024; }
// With one block per row, few rows leave most of the GPU idle. Splitting a row takes half a dozen more launches, so it
// is worth it only for long rows.
constexpr int kShortestSplitRow = 40960;
constexpr int kMultiprocessorsASplitRow = 8;

constexpr int kThreadPathThreads = 128;
constexpr int kWarpPathThreads = 128;
constexpr int kMaxBlockThreads = 1024;
constexpr int kSplitThreads = 512;
constexpr int kCandidateThreads = kMaxBlockThreads;

// Shared memory of a block besides the row: the counts of digits, and the exchange between warps.
constexpr int kExchangeBytes = 256;
constexpr int kRadixBytes = kDigits * 4 + kExchangeBytes;
constexpr int64_t BlockPathSharedBytes(DType dtype, int64_t n) {
  return RoundUp(n * ElementBytes(dtype), 16) + kRadixBytes;
}

// Depends only on the shape, the dtype and the device, because k may be in device memory. The limits were measured by
// `cuda_limits` on an H200. docs/cuda.md has the figures.
inline Path ChoosePath(DType dtype, int64_t rows, int64_t n, const Device& device) {
  if (n <= kLongestThreadRow) return Path::kThread;
  if (n <= LongestWarpRow(dtype)) return Path::kWarp;
  if (BlockPathSharedBytes(dtype, n) > device.shared_bytes) return Path::kSplit;
  if (n >= kShortestSplitRow && kMultiprocessorsASplitRow * rows <= device.multiprocessors) return Path::kSplit;
  return Path::kBlock;
}

// The warp path keeps 16 entries per lane in registers, 32 if 32 lanes need it, or three quarters of either if that is
// enough. The search covers all entries that are kept. They are whole vectors.
constexpr int LanesOfRow(int64_t n) { return n <= 64 ? 4 : n <= 128 ? 8 : n <= 256 ? 16 : 32; }
constexpr int EntriesOfLane(DType dtype, int64_t n) {
  const int most = n <= 512 ? 16 : 32, fewer = most * 3 / 4;
  return fewer * ElementBytes(dtype) % 16 == 0 && fewer * LanesOfRow(n) >= n ? fewer : most;
}

// 16 entries per thread, rounded up to a power of two threads. This gives whole warps, and the same number of digits
// for every thread.
inline int BlockPathThreads(int64_t n) {
  int threads = 128;
  while (threads < kMaxBlockThreads && threads * 16 < n) threads *= 2;
  return threads;
}

// How rows are split among blocks.
struct Split {
  int64_t segment;     // entries of a segment; the last one of a row may be shorter
  int64_t segments;    // segments of a row
  int64_t batch;       // rows processed at a time, which bounds the scratch
  int64_t candidates;  // capacity of a row's list of candidates
};

inline Split ChooseSplit(int64_t rows, int64_t n, const Device& device) {
  // Four blocks of 512 threads fill a multiprocessor.
  const int64_t blocks_a_row = CeilDiv(4 * device.multiprocessors, Greater(1, rows));
  // A segment is a whole number of bitmask bytes and of 16-byte vectors. It is long enough that the time for adding its
  // counts to the row's is negligible.
  const int64_t segment = RoundUp(CeilDiv(n, blocks_a_row), 4096);
  const int64_t segments = CeilDiv(n, segment);
  const int64_t batch = Smaller(rows, CeilDiv(64 * device.multiprocessors, segments));
  // Of normally distributed scores at most 5.4 % share the first digit, and of their magnitudes 10.7 %.
  return {segment, segments, batch, n / 8};
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_PLAN_H_
