// The kernels, written once for all instruction sets (simd-inl.h), and the choice of path.
//
// The selection of a row is a Cut: every score above a threshold, and the first `quota` of those that equal it. One
// step finds the cut (bisection-inl.h, sample-inl.h), and another writes y and the bitmask (write_cut-inl.h). The other
// paths combine the two: rows_in_registers-inl.h, rows_in_lanes-inl.h, greatest-inl.h and stream-inl.h.

#ifndef SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/greatest-inl.h"
#include "core/cpu/kernels.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/rows_in_lanes-inl.h"
#include "core/cpu/rows_in_registers-inl.h"
#include "core/cpu/sample-inl.h"
#include "core/cpu/scale-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/split_row-inl.h"
#include "core/cpu/stream-inl.h"
#include "core/cpu/sums-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace {

// The paths. Times are nanoseconds per entry of normally distributed float32, measured by kernels_benchmark on one
// thread of a 2023 Xeon (AVX-512, 2.6 GHz, 2 MB second-level cache). A copy beyond that cache takes 0.27.
enum class Path {
  kAllOrNone,  // k = 0 or k = n

  // rows_in_registers-inl.h: 4 to 16 float32 or float64 entries.
  kRowsInRegisters,

  // rows_in_lanes-inl.h: up to 32 entries, or up to 256 if there are enough rows. Sorting networks, or bisection in
  // lanes. With AVX2 on a Zen 3, where a copy takes 0.12: 10 entries, k = 1: 0.5; k = 3: 0.8; 64 entries, k = 8: 0.6,
  // where bisection in lanes takes 1.4; 256 entries, k = 16: 0.85.
  kRowsInLanes,

  // greatest-inl.h: k = 1. 1,000 entries: 0.26, where kBisection takes 0.4.
  kGreatest,

  // stream-inl.h: long rows with a small k. 131,072 entries, k = 64: 0.29, where kSample takes 0.31; 1,000,000 entries,
  // k = 100: 0.29 against 0.42. Candidates are costly: 16,384 entries, k = 256: 0.41 against 0.34.
  kStream,

  // sample-inl.h: other long rows. 10,000 entries, k = 5,000: 0.42, where kBisection takes 0.48; 2,048 entries: 0.62
  // against 0.44.
  kSample,

  // bisection-inl.h: all other rows. The row stays in the first-level cache.
  kBisection,
};

// Selects the path for rows of a shape. kernels_benchmark chose the limits.
template <class T, Score kScore>
Path ChoosePath(int64_t rows, int64_t n, int64_t k) {
  using InLanes = RowsInLanes<T, kScore>;
  if (k == 0 || k == n) return Path::kAllOrNone;
  if (RowsInRegisters<T, kScore>::Handles(n)) return Path::kRowsInRegisters;
  if (n <= InLanes::kMaxWord) return Path::kRowsInLanes;
  if (k == 1) return Path::kGreatest;
  // A batch with one row takes as long as a full batch.
  if (n <= InLanes::kMaxEntries && rows > InLanes::kRows / 2) return Path::kRowsInLanes;
  if (n >= 2048 && k <= n / 256) return Path::kStream;
  if (n >= 4096) return Path::kSample;
  return Path::kBisection;
}

// Separates the rows [begin, end).
template <class T, Score kScore>
void SeparateRows(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch) {
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;
  using Bits = typename T::Bits;
  const Products<T> products(args.separation, args.suppression);
  const Path path = ChoosePath<T, kScore>(end - begin, args.n, args.k);
  if (path == Path::kRowsInRegisters) {
    if constexpr (sizeof(Bits) > 2) RowsInRegisters<T, kScore>::Separate(args, begin, end, products);
    return;
  }
  if (path == Path::kRowsInLanes) {
    RowsInLanes<T, kScore>::Separate(args, begin, end, products);
    return;
  }
  Lane* const lanes = static_cast<Lane*>(scratch);
  for (int64_t row = begin; row < end; ++row) {
    const Bits* x = static_cast<const Bits*>(args.x) + row * args.n;
    Bits* y = static_cast<Bits*>(args.y) + row * args.n;
    uint8_t* selected = args.selected + row * BitmaskBytes(args.n);
    Cut<Lane> cut{};
    switch (path) {
      case Path::kAllOrNone:
        // No score is above NaN, and every score is at or above the lowest.
        cut = args.k == 0 ? Cut<Lane>{Lane{}, 0, true} : Cut<Lane>{kLowest<Lane>, args.n};
        break;
      case Path::kRowsInRegisters:
      case Path::kRowsInLanes:
        break;
      case Path::kGreatest:
        SeparateGreatest<T, kScore>(x, y, selected, args.n, products);
        continue;
      case Path::kStream:
        if (SeparateByStream<T, kScore>(x, y, selected, args.n, args.k, false, products, scratch) ||
            SeparateByStream<T, kScore>(x, y, selected, args.n, args.k, true, products, scratch)) {
          continue;
        }
        [[fallthrough]];
      case Path::kSample:
        cut = SelectBySample<L>(x, args.n, args.k, lanes);
        break;
      case Path::kBisection:
        if constexpr (sizeof(Bits) == 2) {
          // Converts the row to order keys once, because a conversion costs more than a comparison.
          for (int64_t i = 0; i < args.n; i += L::S::kLanes) {
            const bool is_full = i + L::S::kLanes <= args.n;
            L::S::Store(lanes + i, is_full ? L::Load(x + i) : L::LoadFirst(x + i, static_cast<int>(args.n - i), 0));
          }
          cut = SelectByBisection<typename L::AsLanes>(lanes, args.n, args.k);
        } else {
          cut = SelectByBisection<L>(x, args.n, args.k);
        }
        break;
    }
    WriteCut<T, kScore>(x, y, selected, args.n, cut, products);
  }
}

// ---- The entry points of kernels.h -----------------------------------------------------------------------

void SeparateAny(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch) {
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    if (args.score == Score::kValue) {
      SeparateRows<T, Score::kValue>(args, begin, end, scratch);
    } else {
      SeparateRows<T, Score::kMagnitude>(args, begin, end, scratch);
    }
  });
}

void SeparateSplitAny(const SeparateArgs& args, int64_t row, const Segments& segments, void* scratch) {
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    if (args.score == Score::kValue) {
      SplitRow<T, Score::kValue>(args, row, segments, scratch).Separate();
    } else {
      SplitRow<T, Score::kMagnitude>(args, row, segments, scratch).Separate();
    }
  });
}

void ScaleAny(const ScaleSelectedArgs& args, int64_t begin, int64_t end) {
  WithDType(args.dtype, [&](auto traits) { ScaleRows<decltype(traits)>(args, begin, end); });
}

SelectedSums SumBlockAny(const SumSelectedArgs& args, int64_t block) {
  SelectedSums sums{};
  WithDType(args.dtype, [&](auto traits) { sums = SumBlock<decltype(traits)>(args, block); });
  return sums;
}

constexpr Kernels kKernels = {SeparateAny, SeparateSplitAny, ScaleAny, SumBlockAny};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_
