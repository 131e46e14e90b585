// The paths of the CPU kernels, which separate the same rows in different ways. choose_path.h chooses one.
//
// The functions are in an unnamed namespace: see simd-inl.h.

#ifndef SEPARATIONFACTOR_CORE_CPU_PATH_H_
#define SEPARATIONFACTOR_CORE_CPU_PATH_H_

#include <cstdint>

#include "core/separate.h"

namespace separationfactor {

enum class Path {
  kAllOrNone,        // k = 0 or k = n
  kRowsInRegisters,  // rows_in_registers-inl.h: a few float32 or float64 entries, all columns in registers
  kRowsInLanes,      // rows_in_lanes-inl.h: short rows, as many at a time as a vector has lanes
  kGreatest,         // greatest-inl.h: k = 1
  kStream,           // stream-inl.h: one pass that also writes y; for long rows with a small k
  kSample,           // sample-inl.h: a sample encloses the threshold; for long rows
  kBisection,        // bisection-inl.h: any row; a few passes over a row that stays in the cache
};

namespace {

constexpr Path kPaths[] = {Path::kAllOrNone, Path::kRowsInRegisters, Path::kRowsInLanes, Path::kGreatest,
                           Path::kStream,    Path::kSample,          Path::kBisection};

inline const char* NameOf(Path path) {
  switch (path) {
    case Path::kAllOrNone:
      return "all_or_none";
    case Path::kRowsInRegisters:
      return "rows_in_registers";
    case Path::kRowsInLanes:
      return "rows_in_lanes";
    case Path::kGreatest:
      return "greatest";
    case Path::kStream:
      return "stream";
    case Path::kSample:
      return "sample";
    case Path::kBisection:
      return "bisection";
  }
  return "";
}

// Rows in registers: four groups of four columns.
constexpr int kLeastInRegisters = 4, kMostInRegisters = 16;
// Rows in lanes: the columns of a batch fit the first-level cache. The bits of a row of up to kMaxWord entries fit a
// lane.
constexpr int kMostInLanes = 256, kMaxWord = 32;
// Sorting networks find a rank up to this, from either end, in rows of any length. Sixteen sorted vectors do not stay
// in registers.
constexpr int kMostSorted = 8;
// The entries in the sample of kSample.
constexpr int kSample = 512;

// Whether rows in lanes find the cut by sorting networks. Otherwise they find it by bisection.
constexpr bool IsSortedInLanes(int64_t n, int64_t k) {
  return n <= kMaxWord || k <= kMostSorted || n - k + 1 <= kMostSorted;
}

// Whether a path handles rows of n entries.
constexpr bool Handles(Path path, DType dtype, int64_t n, int64_t k) {
  if (k == 0 || k == n) return path == Path::kAllOrNone;
  switch (path) {
    case Path::kAllOrNone:
      return false;
    case Path::kRowsInRegisters:
      return (dtype == DType::kFloat32 || dtype == DType::kFloat64) && kLeastInRegisters <= n && n <= kMostInRegisters;
    case Path::kRowsInLanes:
      return n <= kMostInLanes;
    case Path::kGreatest:
      return k == 1;
    case Path::kStream:
      // The groups of the sample, two for each of k entries, must fit the row, and the candidates the scratch.
      return n >= kSample && k <= n / 8;
    case Path::kSample:
      return n >= kSample;
    case Path::kBisection:
      return true;
  }
  return false;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_PATH_H_
