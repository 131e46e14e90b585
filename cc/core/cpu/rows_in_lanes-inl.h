// Separates short rows, one row per lane.

#ifndef SEPARATIONFACTOR_CORE_CPU_ROWS_IN_LANES_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_ROWS_IN_LANES_INL_H_

#include <cstdint>
#include <cstring>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/path.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/row_batch-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/sorting_networks-inl.h"
#include "core/cpu/transpose-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/cpu/write_packed-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// Vectors of 32-bit lanes with as many lanes as a vector of kBytes-wide lanes, for counts and their logarithms.
template <int kBytes>
struct CountLanes;
template <>
struct CountLanes<4> {
  typedef int32_t Int32s __attribute__((vector_size(kVectorBytes)));
  typedef float Floats __attribute__((vector_size(kVectorBytes)));
};
template <>
struct CountLanes<8> {
  typedef int32_t Int32s __attribute__((vector_size(kVectorBytes / 2)));
  typedef float Floats __attribute__((vector_size(kVectorBytes / 2)));
};

// Separates rows of up to kMostInLanes entries, one batch at a time. The columns hold scores. They hold order keys
// instead if the batch contains NaN, which `>` does not order, and for the half types.
template <class T, Score kScore>
class RowsInLanes : private RowBatch<T, kScore> {
  using C = RowBatch<T, kScore>;
  using Columns = Transposer<typename T::Number>;
  using Order = Ranking<typename T::Number>;

 public:
  using C::kRows;
  using typename C::Batch;

  static void Separate(const SeparateArgs& args, int64_t begin, int64_t end, const Products<T>& products) {
    const auto k = static_cast<int>(args.k);
    const auto separate = products.MaskOnly() ? SeparateBatch<true> : SeparateBatch<false>;
    for (int64_t row = begin; row < end; row += kRows) separate(C::BatchAt(args, row, end), k, products);
  }

  template <bool kMaskOnly>
  static void SeparateBatch(const Batch& batch, int k, const Products<T>& products) {
    const int n = batch.n;
    if (n < 2) __builtin_unreachable();  // with n = 1, k is 0 or n, which is another path
    if constexpr (kIsHalf) {
      IntVec keys[kMostInLanes + kPadding];
      LoadColumns(batch, keys);
      SelectAndWrite<kMaskOnly>(batch, k, static_cast<const Vec*>(nullptr), keys, products);
    } else {
      Vec entries[kMostInLanes + kPadding];
      const bool has_nan = LoadColumns(batch, entries);
      // Bisection needs order keys.
      if (has_nan || !IsSortedInLanes(n, k)) {
        IntVec keys[kMostInLanes + kPadding];
        for (int j = 0; j < n; ++j) keys[j] = Key(L::Of(entries[j]));
        SelectAndWrite<kMaskOnly>(batch, k, entries, keys, products);
      } else if (kScore == Score::kValue) {
        SelectAndWrite<kMaskOnly>(batch, k, entries, entries, products);
      } else {
        Vec scores[kMostInLanes + kPadding];
        for (int j = 0; j < n; ++j) scores[j] = L::Of(entries[j]);
        SelectAndWrite<kMaskOnly>(batch, k, entries, scores, products);
      }
    }
  }

 private:
  using C::Any;
  using typename C::Bits;
  using typename C::Integer;
  using typename C::IntVec;
  using typename C::L;
  using typename C::Mask;
  using typename C::Vec;
  using typename C::Wide;
  static constexpr int kElement = Columns::kElement, kPart = Columns::kPart;
  using Numbers = typename L::Numbers;
  using Int32s = typename CountLanes<sizeof(Integer)>::Int32s;
  using Floats = typename CountLanes<sizeof(Integer)>::Floats;
  static constexpr bool kIsHalf = sizeof(Bits) == 2;
  // Columns after the last one, because whole groups are sorted.
  static constexpr int kPadding = kMaxWord / 2;

  // The cut of each row: all order keys above `keys` are selected, and the first `quotas` of those that equal it.
  struct Cuts {
    IntVec keys, quotas;
  };

  // The columns hold scores or order keys. `>` orders either.
  template <bool kMaskOnly, class Column>
  [[gnu::always_inline]] static void SelectAndWrite(const Batch& batch, int k, const Vec* entries, Column* columns,
                                                    const Products<T>& products) {
    const int n = batch.n;
    if (n <= kMaxWord) {
      Mask masks[kMaxWord];
      const IntVec row_bits = MarkGreatest(columns, n, k, masks);
      WriteMasked<kMaskOnly>(batch, entries, masks, row_bits, products);
    } else if (!kHasIntegerLanes<Column> || IsSortedInLanes(n, k)) {
      WriteRows(batch, CutBelow(columns, n, k), products);
    } else if constexpr (kHasIntegerLanes<Column>) {
      WriteRows(batch, CutByBisection(columns, n, k), products);
    }
  }

  // ---- Rows and columns --------------------------------------------------------------------------------

  // Sets columns[j] to the j-th entry of each row, or to its key for the half types. Returns whether an entry is NaN.
  template <class Column>
  [[gnu::always_inline]] static bool LoadColumns(const Batch& batch, Column* columns) {
    const int rows = batch.rows, n = batch.n;
    alignas(64) Integer copy[kRows * kMostInLanes + 2 * Wide::kLanes];
    const char* from = reinterpret_cast<const char*>(batch.x);
    if constexpr (kIsHalf) {
      Widen(batch.x, rows * n, copy);
      from = reinterpret_cast<const char*>(copy);
    } else if (rows < kRows || n < kPart) {
      // Copies the rows, because bytes after them must not be read.
      std::memcpy(copy, batch.x, rows * n * kElement);
      std::memset(copy + rows * n, 0, ((kRows - rows) * n + kPart) * kElement);
      from = reinterpret_cast<const char*>(copy);
    }
    const int64_t row_bytes = int64_t{n} * kElement;
    const typename Columns::template FirstRows<const char> first(from, row_bytes);
    auto nans = Wide::Unordered(Vec{}, Vec{});
    for (int j = 0;; j = NextPart(j, n)) {
      Vec part[kPart];
      Columns::LoadPart(first, j * kElement, kPart * row_bytes, part);
      for (int i = 0; i < kPart; ++i) columns[j + i] = (Column)part[i];
      if constexpr (!kIsHalf) {
        for (int i = 0; i < kPart; i += 2) nans |= Wide::Unordered(part[i], part[i + 1]);
      }
      if (j + kPart >= n) return Wide::BitsOf(nans) != 0;
    }
  }

  // The last part overlaps the one before it, so that nothing after the row is read or written.
  static int NextPart(int j, int n) { return j + 2 * kPart <= n ? j + kPart : n - kPart; }

  static void Widen(const Bits* x, int count, Integer* keys) {
    using S = typename L::S;
    typedef int16_t Half __attribute__((vector_size(kVectorBytes / 2)));
    for (int i = 0; i < count; i += S::kLanes) {
      const auto vec = i + S::kLanes <= count ? L::Load(x + i) : L::LoadFirst(x + i, count - i, 0);
      Half parts[2];
      __builtin_memcpy(parts, &vec, sizeof(vec));
      for (int part = 0; part < 2; ++part) {
        const IntVec wide = __builtin_convertvector(parts[part], IntVec);
        __builtin_memcpy(keys + i + part * kRows, &wide, sizeof(wide));
      }
    }
  }

  // Writes rows of up to kMaxWord entries. Multiplies columns and transposes them back into rows. The half types, whose
  // entries are not in the columns, and rows shorter than a part are written from their bits instead.
  template <bool kMaskOnly>
  [[gnu::always_inline]] static void WriteMasked(const Batch& batch, const Vec* entries, const Mask* masks,
                                                 IntVec row_bits, const Products<T>& products) {
    const int rows = batch.rows, n = batch.n;
    WriteBits(batch, row_bits);
    if constexpr (!kIsHalf) {
      if (n >= kPart) {
        alignas(64) Integer copy[kRows * kMaxWord];
        char* const to = rows == kRows ? reinterpret_cast<char*>(batch.y) : reinterpret_cast<char*>(copy);
        const int64_t row_bytes = int64_t{n} * kElement;
        const typename Columns::template FirstRows<char> first(to, row_bytes);
        for (int j = 0;; j = NextPart(j, n)) {
          Vec part[kPart];
          for (int i = 0; i < kPart; ++i) {
            part[i] = products.template Product<kMaskOnly>(entries[j + i], masks[j + i]);
          }
          Columns::StorePart(part, first, j * kElement, kPart * row_bytes);
          if (j + kPart >= n) break;
        }
        if (rows < kRows) std::memcpy(batch.y, copy, rows * row_bytes);
        return;
      }
    }
    WritePacked<kMaskOnly>(batch, row_bits, products);
  }

  template <bool kMaskOnly>
  [[gnu::noinline]] static void WritePacked(const Batch& batch, IntVec row_bits, const Products<T>& products) {
    Integer bits[kRows];
    __builtin_memcpy(bits, &row_bits, sizeof(bits));
    PackedWriter<T, kMaskOnly> writer(batch.x, batch.y, products);
    for (int row = 0; row < batch.rows; ++row) writer.Add(static_cast<uint32_t>(bits[row]), batch.n);
    writer.Finish();
  }

  // Not inlined: otherwise GCC keeps the bits in memory while they are collected.
  [[gnu::noinline]] static void WriteBits(const Batch& batch, IntVec row_bits) {
    switch (BitmaskBytes(batch.n)) {
      case 1:
        C::template WriteWords<uint8_t>(batch, row_bits);
        break;
      case 2:
        C::template WriteWords<uint16_t>(batch, row_bits);
        break;
      case 3: {
        Integer bits[kRows];
        __builtin_memcpy(bits, &row_bits, sizeof(bits));
        for (int row = 0; row < batch.rows; ++row) __builtin_memcpy(batch.selected + 3 * row, bits + row, 3);
        break;
      }
      default:
        C::template WriteWords<uint32_t>(batch, row_bits);
    }
  }

  static void WriteRows(const Batch& batch, const Cuts& cuts, const Products<T>& products) {
    const int n = batch.n;
    Integer keys[kRows], quotas[kRows];
    __builtin_memcpy(keys, &cuts.keys, sizeof(keys));
    __builtin_memcpy(quotas, &cuts.quotas, sizeof(quotas));
    using Lane = typename L::Lane;
    for (int row = 0; row < batch.rows; ++row) {
      if constexpr (!kIsHalf) {
        // A pivot that is a negative denormal has a key below that of zero, but compares equal to zero.
        constexpr Integer kBelowDenormals = -(Integer{1} << (sizeof(Integer) == 4 ? 23 : 52)) - 1;
        if (keys[row] < 0 && keys[row] > kBelowDenormals) keys[row] = kBelowDenormals;
      }
      Cut<Lane> cut{LaneOfKey<Lane>(static_cast<typename L::S::Integer>(keys[row])), static_cast<int64_t>(quotas[row])};
      if (!kIsHalf && cut.threshold != cut.threshold) {
        // A pivot between the keys of infinity and NaN means that the NaNs are above it. As a threshold with ties, it
        // means NaN itself, which has nothing above it.
        cut.is_nan = cut.quota > 0;
        cut.threshold = kHighest<Lane>;
      }
      WriteCut<T, kScore>(batch.x + row * n, batch.y + row * n, batch.selected + row * BitmaskBytes(n), n, cut,
                          products);
    }
  }

  // ---- Order keys ------------------------------------------------------------------------------------------

  static IntVec Key(Vec score) {
    if constexpr (kIsHalf) {
      return (IntVec)score;
    } else {
      // Adding zero turns denormals and -0 into +0.
      const Vec number = score + Vec{};
      const IntVec nan = Wide::SetInteger(static_cast<Integer>(~(uint64_t{1} << (8 * sizeof(Integer) - 1))));
      return (IntVec)Wide::Blend(Wide::Unordered(number, number), (Vec)nan, (Vec)Ordered((IntVec)number));
    }
  }
  // OrderKey of scores-inl.h. It is its own inverse.
  static IntVec Ordered(IntVec bits) {
    constexpr auto kNotSign = static_cast<Integer>(~(uint64_t{1} << (8 * sizeof(Integer) - 1)));
    return bits ^ ((bits >> (8 * sizeof(Integer) - 1)) & Wide::SetInteger(kNotSign));
  }
  static Vec NumberOf(IntVec key) {
    if constexpr (kIsHalf) {
      const IntVec sign = key >> 31;
      return (Vec)(((key ^ sign) << Numbers::kShift) | (sign & INT32_MIN)) * Numbers::kScale;
    } else {
      return (Vec)Ordered(key);
    }
  }
  static IntVec KeyOfNumber(Vec number) {
    if constexpr (kIsHalf) {
      const IntVec bits = (IntVec)(number * Numbers::kInverse);
      return ((bits & INT32_MAX) >> Numbers::kShift) ^ (bits >> 31);
    } else {
      return Ordered((IntVec)number);
    }
  }

  // ---- Selection -------------------------------------------------------------------------------------------

  // Returns the k-th greatest of each row. Requires k or n - k + 1 <= kMostSorted, or n <= kMaxWord.
  template <class Column>
  static Column KthGreatest(Column* columns, int n, int k) {
    if (k == 1) {
      Column greatest = columns[0];
      for (int j = 1; j < n; ++j) greatest = Order::Greater(columns[j], greatest);
      return greatest;
    }
    const typename Order::template Rank<Column> rank(n, k);
    for (int j = n; j < n + kPadding; ++j) columns[j] = rank.padding;
    return rank.rank <= kMostSorted ? Order::template Ranked<kMostSorted>(columns, n, rank)
                                    : Order::template Ranked<kPadding>(columns, n, rank);
  }

  // Counts the entries of each row at or above a bound. Four sums shorten the chain of dependent additions.
  template <class Column>
  static IntVec CountAtLeast(const Column* columns, int n, Column bound) {
    const IntVec one = Wide::SetInteger(1);
    IntVec sums[4]{};
    int j = 0;
    for (; j + 4 <= n; j += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[i] = Wide::AddIf(sums[i], Wide::AtLeast(columns[j + i], bound), one);
    }
    for (; j < n; ++j) sums[0] = Wide::AddIf(sums[0], Wide::AtLeast(columns[j], bound), one);
    return Wide::AddWrapped(Wide::AddWrapped(sums[0], sums[1]), Wide::AddWrapped(sums[2], sums[3]));
  }

  // Returns how many of the entries that equal the k-th greatest are selected.
  template <class Column>
  static IntVec Quotas(const Column* columns, int n, int k, Column threshold) {
    IntVec quotas = Wide::SetInteger(static_cast<Integer>(k - n));
    for (int j = 0; j < n; ++j) quotas = Wide::AddIf(quotas, Wide::AtLeast(threshold, columns[j]), Wide::SetInteger(1));
    return quotas;
  }

  // Sets masks[j] to the selected lanes of column j. Returns the bits of each row.
  template <class Column>
  [[gnu::always_inline]] static IntVec MarkGreatest(Column* columns, int n, int k, Mask* masks) {
    const Column threshold = KthGreatest(columns, n, k);
    const IntVec one = Wide::SetInteger(1), minus_one = Wide::SetInteger(-1);
    IntVec count{}, bits{}, bit = one;
    for (int j = 0; j < n; ++j) {
      masks[j] = Wide::AtLeast(columns[j], threshold);
      count = Wide::AddIf(count, masks[j], one);
      bits = Wide::AddIf(bits, masks[j], bit);
      bit = Wide::AddWrapped(bit, bit);
    }
    if (!Any(count != Wide::SetInteger(static_cast<Integer>(k)))) return bits;
    IntVec quotas = Quotas(columns, n, k, threshold);
    bits = IntVec{};
    bit = one;
    for (int j = 0; j < n; ++j) {
      const Mask is_equal = Wide::And(masks[j], Wide::AtLeast(threshold, columns[j]));
      const Mask is_taken = Wide::And(is_equal, Wide::AtLeast(quotas, one));
      masks[j] = Wide::AndNot(masks[j], Wide::AndNot(is_equal, is_taken));
      quotas = Wide::AddIf(quotas, is_taken, minus_one);
      bits = Wide::AddIf(bits, masks[j], bit);
      bit = Wide::AddWrapped(bit, bit);
    }
    return bits;
  }

  // Finds the cuts by sorting.
  template <class Column>
  static Cuts CutBelow(Column* columns, int n, int k) {
    const Column threshold = KthGreatest(columns, n, k);
    IntVec keys;
    if constexpr (kHasIntegerLanes<Column>) {
      keys = threshold;
    } else {
      keys = Key(threshold);
    }
    const IntVec is_tie = CountAtLeast(columns, n, threshold) != Wide::SetInteger(static_cast<Integer>(k));
    // If no ties straddle the cut, the cut is just below the threshold and the quota is 0. Adds 0 for a row with such
    // ties, whose mask is -1, and -1 otherwise. Rows that do not exist may wrap.
    const IntVec cuts = Wide::AddWrapped(keys, ~is_tie);
    if (!Any(is_tie)) return {cuts, IntVec{}};
    return {cuts, Quotas(columns, n, k, threshold) & is_tie};
  }

  // The scores of a batch as order keys, for Bisect. Order keys rank NaN too.
  struct ScoresInLanes {
    using Keys = IntVec;
    using Counts = IntVec;
    using Odds = Floats;
    using Flags = Int32s;

    static IntVec CountOf(int64_t count) { return Wide::SetInteger(static_cast<Integer>(count)); }
    static bool IsAny(IntVec flags) { return Any(flags); }
    static Int32s FlagsOf(IntVec flags) { return Narrow(flags); }
    static Floats OddsOf(IntVec counts, float size) {
      const Floats count = __builtin_convertvector(Narrow(counts), Floats);
      return RoughLog2s(count + 0.5f) - RoughLog2s(size - count + 0.5f);
    }
    static Vec NumberOfOdds(Floats odds) {
      if constexpr (sizeof(Integer) == 4) return odds;
      return __builtin_convertvector(odds, Vec);
    }
    static Vec NumberOf(IntVec key) { return RowsInLanes::NumberOf(key); }
    static IntVec KeyOf(Vec number) { return KeyOfNumber(number); }
    static IntVec Next(IntVec key) { return Wide::AddWrapped(key, Wide::SetInteger(1)); }

    IntVec CountAbove(IntVec key) const { return CountAtLeast(columns, n, Next(key)); }
    void MoveToScores(IntVec is_open, IntVec& low, IntVec& high) const {
      IntVec new_low = high, new_high = low;
      for (int j = 0; j < n; ++j) {
        const IntVec key = columns[j];
        new_low = ((key >= low) & (key < new_low)) ? key : new_low;
        new_high = ((key <= high) & (key > new_high)) ? key : new_high;
      }
      low = is_open ? new_low : low;
      high = is_open ? new_high : high;
    }

    static Int32s Narrow(IntVec integers) {
      if constexpr (sizeof(Integer) == 4) return integers;
      return __builtin_convertvector(integers, Int32s);
    }
    static Floats RoughLog2s(Floats x) {
      const Int32s bits = (Int32s)x - 0x3F800000;
      return __builtin_convertvector(bits, Floats) * 0x1p-23f;
    }

    const IntVec* columns;
    int n;
  };

  // Finds the cuts by bisection.
  static Cuts CutByBisection(const IntVec* columns, int n, int k) {
    IntVec lows[2] = {columns[0], columns[n - 1]}, highs[2] = {columns[0], columns[n - 1]};
    for (int j = 0; j + 2 <= n; j += 2) {
      for (int i = 0; i < 2; ++i) {
        const IntVec key = columns[j + i];
        lows[i] = key < lows[i] ? key : lows[i];
        highs[i] = key > highs[i] ? key : highs[i];
      }
    }
    Interval<ScoresInLanes> interval{lows[0] < lows[1] ? lows[0] : lows[1], highs[0] > highs[1] ? highs[0] : highs[1],
                                     IntVec{}};
    Bisect(ScoresInLanes{columns, n}, n, k, interval);
    return {interval.high, ScoresInLanes::CountOf(k) - interval.above_high};
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_ROWS_IN_LANES_INL_H_
