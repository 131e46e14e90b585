// The kernels, written once for all instruction sets (simd-inl.h).
//
// The selection of a row is a Cut: every score above a threshold, and the first `quota` of those that equal it. One
// step finds the cut (bisection-inl.h, sample-inl.h), and another writes y and the bitmask (write_cut-inl.h). The other
// paths combine the two: rows_in_registers-inl.h, rows_in_lanes-inl.h, greatest-inl.h and stream-inl.h. All paths are
// listed in path.h, and choose_path.h chooses one.

#ifndef SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/choose_path.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/greatest-inl.h"
#include "core/cpu/kernels.h"
#include "core/cpu/path.h"
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

// Separates the rows [begin, end) by a path that handles them.
template <class T, Score kScore>
void SeparateRows(Path path, const SeparateArgs& args, int64_t begin, int64_t end, void* scratch) {
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;
  using Bits = typename T::Bits;
  const Products<T> products(args.separation, args.suppression);
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

template <class T>
void SeparateBy(Path path, const SeparateArgs& args, int64_t begin, int64_t end, void* scratch) {
  const auto separate =
      args.score == Score::kValue ? SeparateRows<T, Score::kValue> : SeparateRows<T, Score::kMagnitude>;
  separate(path, args, begin, end, scratch);
}

template <class T>
void Separate(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch) {
  const Path path = ChoosePath(kVectorBytes, T::kDType, end - begin, args.n, args.k);
  SeparateBy<T>(path, args, begin, end, scratch);
}

template <class T>
void SeparateSplit(const SeparateArgs& args, int64_t row, const Segments& segments, void* scratch) {
  if (args.score == Score::kValue) {
    SplitRow<T, Score::kValue>(args, row, segments, scratch).Separate();
  } else {
    SplitRow<T, Score::kMagnitude>(args, row, segments, scratch).Separate();
  }
}

template <class T>
constexpr Kernels kKernelsOf = {Separate<T>, SeparateBy<T>, SeparateSplit<T>, ScaleRows<T>, SumBlock<T>};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_KERNELS_INL_H_
