// Separates the shortest rows, with all their columns in registers.

#ifndef SEPARATIONFACTOR_CORE_CPU_ROWS_IN_REGISTERS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_ROWS_IN_REGISTERS_INL_H_

#include <cstdint>
#include <type_traits>

#include "core/cpu/path.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/row_batch-inl.h"
#include "core/cpu/rows_in_lanes-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/sorting_networks-inl.h"
#include "core/cpu/transpose-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// Separates rows of 4 to 16 float32 or float64 entries. Columns come in groups of four. The number of groups is a
// template argument, so the compiler can keep columns in registers. The last group holds the last four entries of the
// rows and may overlap the group before it.
template <class T, Score kScore>
class RowsInRegisters : private RowBatch<T, kScore> {
  using C = RowBatch<T, kScore>;
  using Columns = Transposer<typename T::Number>;
  using Order = Ranking<typename T::Number>;
  static constexpr int kGroup = kLeastInRegisters, kMostGroups = kMostInRegisters / kGroup;

 public:
  static void Separate(const SeparateArgs& args, int64_t begin, int64_t end, const Products<T>& products) {
    const int64_t batches = (end - begin) / C::kRows;
    const auto separate = products.MaskOnly() ? GroupsOf<true>(args.n) : GroupsOf<false>(args.n);
    if (batches > 0) separate(C::BatchAt(args, begin, end), batches, static_cast<int>(args.k), products);
    InLanes::Separate(args, begin + batches * C::kRows, end, products);
  }

 private:
  using InLanes = RowsInLanes<T, kScore>;
  using C::kRows;
  using typename C::Batch;
  using typename C::Bits;
  using typename C::Integer;
  using typename C::IntVec;
  using typename C::L;
  using typename C::Mask;
  using typename C::Vec;
  using typename C::Wide;
  static constexpr int kElement = Columns::kElement, kPart = Columns::kPart;

  // NotLess marks every NaN and every entry >= threshold, even if a NaN misleads the networks. If exactly k entries are
  // marked, the selection is correct. Otherwise, for ties or if the threshold is NaN, falls back to RowsInLanes.
  template <bool kMaskOnly, int kGroups>
  [[gnu::noinline]] static void SeparateGroups(Batch batch, int64_t batches, int k, const Products<T>& by_reference) {
    constexpr int kColumns = kGroups * kGroup, kLast = kColumns - kGroup;
    constexpr int kFirst = kColumns < kMostSorted ? kColumns : kMostSorted;
    constexpr int kMore = kColumns - kFirst > kGroup ? kMostSorted : kGroup;
    using Word = std::conditional_t<(kColumns <= 8), uint8_t, uint16_t>;
    const Products<T> products = by_reference;  // a local copy, which stores to y cannot alias
    const int n = batch.n, overlap = kColumns - n;
    const int64_t row_bytes = int64_t{n} * kElement;
    const auto offset_of = [row_bytes](int group) {
      return group < kGroups - 1 ? kGroup * kElement * group : row_bytes - kGroup * kElement;
    };
    const typename Order::template Rank<Vec> rank(n, k);
    // A selected column adds its mark to the words of its rows: its bit, and 1 in a counter above the bits.
    constexpr int kCount = kMostGroups * kGroup;
    const IntVec wanted = Wide::SetInteger(static_cast<Integer>(k));
    IntVec marks[kColumns];
    for (int j = 0; j < kColumns; ++j) {
      const int mark = j < kLast ? 1 << j : (j - kLast < overlap ? 0 : 1 << (j - overlap));
      marks[j] = Wide::SetInteger(static_cast<Integer>(mark == 0 ? 0 : mark | 1 << kCount));
    }
    // Keeps the marks in memory. The compiler otherwise recomputes each in three instructions.
    __asm__ volatile("" : : "r"(marks) : "memory");
    const Bits* x = batch.x;
    Bits* y = batch.y;
    uint8_t* selected = batch.selected;
    // After a fallback the next kFallbackBatches batches go to RowsInLanes directly, because they may need it too.
    constexpr int kFallbackBatches = 16;
    int fallback_batches = 0;
    const auto here = [&] { return Batch{x, y, selected, kRows, n}; };
    const auto advance = [&] {
      x += kRows * n;
      y += kRows * n;
      selected += kRows * sizeof(Word);
    };
    for (; batches > 0; --batches, advance()) {
      if (fallback_batches > 0) {
        InLanes::template SeparateBatch<kMaskOnly>(here(), k, by_reference);
        --fallback_batches;
        continue;
      }
      Vec entries[kColumns], scores[kColumns];
      const typename Columns::template FirstRows<const char> x_rows(reinterpret_cast<const char*>(x), row_bytes);
#pragma GCC unroll 4
      for (int group = 0; group < kGroups; ++group) {
        LoadGroup(x_rows, offset_of(group), kPart * row_bytes, entries + group * kGroup);
      }
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) scores[j] = L::Of(entries[j]);
      Vec threshold = scores[0];
      if (k == 1) {
#pragma GCC unroll 16
        for (int j = 1; j < kColumns; ++j) threshold = Order::Greater(scores[j], threshold);
      } else {
        Vec distinct[kColumns];
#pragma GCC unroll 16
        for (int j = 0; j < kColumns; ++j) distinct[j] = scores[j];
        for (int j = 0; j < overlap; ++j) distinct[kLast + j] = rank.padding;
        threshold = Order::template Ranked<kFirst, kMore>(distinct, kColumns, rank);
      }
      Mask masks[kColumns];
      IntVec words{};
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        masks[j] = Wide::NotLess(scores[j], threshold);
        words = Wide::AddIf(words, masks[j], marks[j]);
      }
      if (C::Any((words >> kCount) != wanted)) {
        InLanes::template SeparateBatch<kMaskOnly>(here(), k, by_reference);
        fallback_batches = kFallbackBatches;
      } else {
        C::template WriteWords<Word>(here(), words);
        const typename Columns::template FirstRows<char> y_rows(reinterpret_cast<char*>(y), row_bytes);
        // Writes the last group first. The group before it then overwrites the entries that the two share.
#pragma GCC unroll 4
        for (int group = kGroups - 1; group >= 0; --group) {
          Vec* const columns = entries + group * kGroup;
#pragma GCC unroll 4
          for (int j = 0; j < kGroup; ++j) {
            columns[j] = products.template Product<kMaskOnly>(columns[j], masks[group * kGroup + j]);
          }
          StoreGroup(columns, y_rows, offset_of(group), kPart * row_bytes);
        }
      }
    }
  }

  template <bool kMaskOnly>
  static auto GroupsOf(int64_t n) {
    static constexpr decltype(&SeparateGroups<kMaskOnly, 1>) kByGroups[kMostGroups] = {
        SeparateGroups<kMaskOnly, 1>, SeparateGroups<kMaskOnly, 2>, SeparateGroups<kMaskOnly, 3>,
        SeparateGroups<kMaskOnly, 4>};
    return kByGroups[(n - 1) / kGroup];
  }

  // Loads four columns: 16 bytes of each row for float32, 32 for float64.
  [[gnu::always_inline]] static void LoadGroup(const typename Columns::template FirstRows<const char>& rows,
                                               int64_t offset, int64_t stride, Vec* columns) {
    for (int j = 0; j < kGroup; j += kPart) {
      Vec part[kPart];
      Columns::LoadPart(rows, offset + j * kElement, stride, part);
      for (int i = 0; i < kPart; ++i) columns[j + i] = part[i];
    }
  }
  [[gnu::always_inline]] static void StoreGroup(const Vec* columns,
                                                const typename Columns::template FirstRows<char>& rows, int64_t offset,
                                                int64_t stride) {
    for (int j = 0; j < kGroup; j += kPart) {
      Vec part[kPart];
      for (int i = 0; i < kPart; ++i) part[i] = columns[j + i];
      Columns::StorePart(part, rows, offset + j * kElement, stride);
    }
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_ROWS_IN_REGISTERS_INL_H_
