// Vectors of rows in columns, and sorting networks over them.

#ifndef SEPARATIONFACTOR_CORE_COLUMNS_INL_H_
#define SEPARATIONFACTOR_CORE_COLUMNS_INL_H_

#include <cstdint>
#include <utility>

#include "core/scores-inl.h"
#include "core/separate.h"
#include "core/simd-inl.h"

namespace separationfactor {
namespace {

// Pairs of places; of each pair in turn the greater entry goes first.
template <int kSize>
struct Network {
  int first[kSize * kSize], second[kSize * kSize];
  int count = 0;
  constexpr void Add(int one, int other) {
    first[count] = one;
    second[count++] = other;
  }
};

// Sorts: Batcher's odd-even merge sort (1968).
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

// Sorts what first rises and then falls, or the other way round.
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

// As many rows at a time as a vector has lanes: each lane is a row, each vector a column, so that nothing goes across
// lanes.
template <class T, Score kScore>
struct Columns {
  using L = Scored<T, kScore>;
  using Bits = typename T::Bits;
  using Wide = Simd<typename T::Number>;
  using Vec = typename Wide::Vec;
  using IntVec = typename Wide::IntVec;
  using Integer = typename Wide::Integer;
  using Mask = typename Wide::Mask;
  static constexpr int kRows = Wide::kLanes;
  static constexpr int kElement = sizeof(Integer), kPart = 16 / kElement;
  // Of longer rows, sorting finds no more than the eighth; sixteen vectors sorted do not stay in registers.
  static constexpr int kMostSorted = 8;

  struct Batch {
    const Bits* x;
    Bits* y;
    uint8_t* selected;
    int rows, n;
  };
  // The rows from `row` on that there are, as many as a batch has at most.
  static Batch BatchAt(const SeparateArgs& args, int64_t row, int64_t end) {
    return {static_cast<const Bits*>(args.x) + row * args.n, static_cast<Bits*>(args.y) + row * args.n,
            args.selected + row * BitmaskBytes(args.n), static_cast<int>(Smaller(kRows, end - row)),
            static_cast<int>(args.n)};
  }

  // ---- Rows into columns, and back -------------------------------------------------------------------------

  // The first of a batch's rows, from which the others lie a multiple of as many rows away.
  template <class Char>
  struct FirstRows {
    FirstRows(Char* first, int64_t row_bytes) {
      for (int row = 0; row < kPart; ++row) {
        of[row] = first + row * row_bytes;
        // Or the compiler keeps each row's distance for each group, which is more than there are registers.
        __asm__("" : "+r"(of[row]));
      }
    }
    Char* of[kPart];
  };

  // Columns from 16 bytes of each row, and back into them.
  [[gnu::always_inline]] static void LoadPart(const FirstRows<const char>& rows, int64_t offset, int64_t stride,
                                              Vec (&part)[kPart]) {
    for (int row = 0; row < kPart; ++row) part[row] = Wide::LoadQuarters(rows.of[row] + offset, stride);
    Turn(part);
  }
  [[gnu::always_inline]] static void StorePart(Vec (&part)[kPart], const FirstRows<char>& rows, int64_t offset,
                                               int64_t stride) {
    Turn(part);
    for (int row = 0; row < kPart; ++row) Wide::StoreQuarters(rows.of[row] + offset, stride, part[row]);
  }

  // Turns 16 bytes each of kPart rows into columns, and back.
  static void Turn(Vec (&part)[kPart]) {
    if constexpr (kPart == 2) {
      const Vec first = part[0];
      part[0] = Wide::template Interleave<8, false>(first, part[1]);
      part[1] = Wide::template Interleave<8, true>(first, part[1]);
    } else {
      const Vec low01 = Wide::template Interleave<4, false>(part[0], part[1]);
      const Vec high01 = Wide::template Interleave<4, true>(part[0], part[1]);
      const Vec low23 = Wide::template Interleave<4, false>(part[2], part[3]);
      const Vec high23 = Wide::template Interleave<4, true>(part[2], part[3]);
      part[0] = Wide::template Interleave<8, false>(low01, low23);
      part[1] = Wide::template Interleave<8, true>(low01, low23);
      part[2] = Wide::template Interleave<8, false>(high01, high23);
      part[3] = Wide::template Interleave<8, true>(high01, high23);
    }
  }

  template <class Word>
  static void WriteWords(const Batch& batch, IntVec row_bits) {
    typedef Word Words __attribute__((vector_size(kRows * sizeof(Word))));
    const Words words = __builtin_convertvector(row_bits, Words);
    if (batch.rows == kRows) {
      __builtin_memcpy(batch.selected, &words, sizeof(words));
    } else {
      __builtin_memcpy(batch.selected, &words, batch.rows * sizeof(Word));
    }
  }

  static bool Any(IntVec mask) { return Wide::BitsOf(Wide::Unordered((Vec)mask, (Vec)mask)) != 0; }

  // ---- Order -----------------------------------------------------------------------------------------------

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

  // The k-th greatest of n, counted from the nearer end: the rank-th greatest of flipped columns.
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
    Column padding;  // what no rank reaches
  };

  // Each row's entry of a rank up to kSize: the kSize greatest, of flipped columns, are kept sorted, as more columns
  // are sorted and merged with them, kMore at a time.
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

#endif  // SEPARATIONFACTOR_CORE_COLUMNS_INL_H_
