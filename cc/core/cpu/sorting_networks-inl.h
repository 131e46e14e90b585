// Finds the k-th greatest entry of each row with sorting networks over columns.

#ifndef SEPARATIONFACTOR_CORE_CPU_SORTING_NETWORKS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SORTING_NETWORKS_INL_H_

#include <cstdint>
#include <utility>

#include "core/cpu/simd-inl.h"

namespace separationfactor {
namespace {

// A list of comparators. Each moves the greater of two entries to the index `first`.
template <int kSize>
struct Network {
  int first[kSize * kSize], second[kSize * kSize];
  int count = 0;
  constexpr void Add(int one, int other) {
    first[count] = one;
    second[count++] = other;
  }
};

// A network that sorts: Batcher's odd-even merge sort (1968).
template <int kSize>
constexpr Network<kSize> SortingNetwork() {
  Network<kSize> network{};
  for (int sorted = 1; sorted < kSize; sorted *= 2) {
    for (int apart = sorted; apart >= 1; apart /= 2) {
      for (int start = apart % sorted; start + apart < kSize; start += 2 * apart) {
        for (int i = start; i < start + apart && i + apart < kSize; ++i) {
          if (i / (2 * sorted) == (i + apart) / (2 * sorted)) network.Add(i, i + apart);
        }
      }
    }
  }
  return network;
}

// A network that sorts a bitonic sequence, which first rises and then falls or the reverse.
template <int kSize>
constexpr Network<kSize> BitonicMerge() {
  Network<kSize> network{};
  for (int apart = kSize / 2; apart >= 1; apart /= 2) {
    for (int i = 0; i < kSize; ++i) {
      if ((i & apart) == 0) network.Add(i, i + apart);
    }
  }
  return network;
}

// Selection by rank in columns: each lane is a row, each vector a column.
template <class Number>
struct Ranking {
  using Wide = Simd<Number>;
  using IntVec = typename Wide::IntVec;
  using Integer = typename Wide::Integer;

  template <class Column>
  static Column Greater(Column a, Column b) {
    return a > b ? a : b;
  }
  template <class Column>
  static void SortPair(Column& first, Column& second) {
    const Column greater = Greater(first, second);
    second = second < first ? second : first;
    first = greater;
  }
  template <class Column, class Comparators, int... kIndices>
  [[gnu::always_inline]] static void Apply(const Comparators& network, Column* columns,
                                           std::integer_sequence<int, kIndices...>) {
    (SortPair(columns[network.first[kIndices]], columns[network.second[kIndices]]), ...);
  }

  // The k-th greatest of n entries as a rank from the nearer end. If that is the lower end, columns are flipped, which
  // reverses their order.
  template <class Column>
  struct Rank {
    Rank(int n, int k) {
      const bool is_from_below = k > n - k + 1;
      rank = is_from_below ? n - k + 1 : k;
      constexpr auto kSign = static_cast<Integer>(uint64_t{1} << (8 * sizeof(Integer) - 1));
      if constexpr (kHasIntegerLanes<Column>) {
        flip = Wide::SetInteger(is_from_below ? -1 : 0);
        padding = Flipped(Wide::SetInteger(kSign));
      } else {
        flip = Wide::SetInteger(is_from_below ? kSign : 0);
        padding = Flipped(Wide::Set(-__builtin_inff()));
      }
    }
    Column Flipped(Column column) const { return (Column)((IntVec)column ^ flip); }
    int rank;
    IntVec flip;
    Column padding;  // below every entry once it is flipped
  };

  // Returns each row's entry of a rank up to kSize. Keeps the kSize greatest flipped entries sorted. Sorts kMore
  // columns at a time and merges them in.
  template <int kSize, int kMore = kSize, class Column>
  [[gnu::always_inline]] static Column Ranked(const Column* columns, int n, const Rank<Column>& rank) {
    static constexpr auto kSort = SortingNetwork<kSize>();
    static constexpr auto kSortMore = SortingNetwork<kMore>();
    static constexpr auto kMerge = BitonicMerge<kSize>();
    Column greatest[kSize];
    for (int i = 0; i < kSize; ++i) greatest[i] = rank.Flipped(columns[i]);
    Apply(kSort, greatest, std::make_integer_sequence<int, kSort.count>());
    for (int j = kSize; j < n; j += kMore) {
      Column more[kMore];
      for (int i = 0; i < kMore; ++i) more[i] = rank.Flipped(columns[j + i]);
      Apply(kSortMore, more, std::make_integer_sequence<int, kSortMore.count>());
      for (int i = kSize - kMore; i < kSize; ++i) greatest[i] = Greater(greatest[i], more[kSize - 1 - i]);
      Apply(kMerge, greatest, std::make_integer_sequence<int, kMerge.count>());
    }
    return rank.Flipped(greatest[rank.rank - 1]);
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SORTING_NETWORKS_INL_H_
