// The kernels, once for all instruction sets: see simd-inl.h for how that works.
//
// A row's selection is a Cut: what scores above a threshold, and the first few of those that equal it. Finding
// the cut (bisection-inl.h, sample-inl.h) and writing what it selects are separate steps, except for long rows with a
// small k, where one pass over the row does both (stream-inl.h).

#ifndef SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
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
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace {

// How a row is selected from. Times are nanoseconds an entry, of normal float32 on one thread of a Xeon of 2023
// (AVX-512, 2.6 GHz, 2 MB second-level cache) by kernels_benchmark; copying takes 0.27 where it goes beyond
// that cache.
enum class Path {
  kAllOrNone,        // k = 0 or k = n
  kRowsInRegisters,  // 4 to 16 entries, not of the half types: as kRowsInLanes, with all columns in registers
  // Short rows in the lanes of a vector: by sorting networks, or up to 256 entries by bisection in lanes, if there
  // are rows enough. (With AVX2 on a Zen 3, where copying takes 0.12: 10 entries 0.5 with k = 1, 0.8 with 3; 64
  // entries, k = 8: 0.6, where bisection in lanes takes 1.4; 256 entries, k = 16: 0.85.)
  kRowsInLanes,
  kGreatest,  // k = 1: looks for the greatest (1,000 entries: 0.26, where kBisection takes 0.4)
  // Little of a long row is selected: candidates above a bound, by one pass that writes as well. (131,072 entries,
  // k = 64: 0.29, where kSample takes 0.31; 1,000,000, k = 100: 0.29 against 0.42. Candidates are costly: with
  // 16,384 entries and k = 256 it is 0.41 against 0.34.)
  kStream,
  // Any other long row: pivots from a sample, then bisection of what lies between them (10,000 entries, k = 5,000:
  // 0.42, where kBisection takes 0.48; 2,048: 0.62 against 0.44).
  kSample,
  kBisection,  // the rest: bisection of the row, which is in the first-level cache
};

template <class T, Score kScore>
Path ChoosePath(int64_t rows, int64_t n, int64_t k) {
  using Short = RowsInLanes<T, kScore>;
  if (k == 0 || k == n) return Path::kAllOrNone;
  if (RowsInRegisters<T, kScore>::Take(n)) return Path::kRowsInRegisters;
  if (n <= Short::kMaxWord) return Path::kRowsInLanes;
  if (k == 1) return Path::kGreatest;
  // It takes as long for one row as for a vector of rows.
  if (n <= Short::kMaxEntries && rows > Short::kRows / 2) return Path::kRowsInLanes;
  if (n >= 2048 && k <= n / 256) return Path::kStream;
  if (n >= 4096) return Path::kSample;
  return Path::kBisection;
}

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
        // Nothing is above NaN, and all is at or above the lowest score there can be.
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
          // Making keys costs more than comparing them, so it is done once.
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

// ---- What separate.cc calls ------------------------------------------------------------------------------

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

constexpr Kernels kKernels = {SeparateAny, SeparateSplitAny, ScaleAny};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_
