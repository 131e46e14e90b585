// Short rows, a vector of rows at a time.

#ifndef SEPARATIONFACTOR_CORE_SHORT_ROWS_INL_H_
#define SEPARATIONFACTOR_CORE_SHORT_ROWS_INL_H_

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/long_rows-inl.h"
#include "core/products-inl.h"
#include "core/scores-inl.h"
#include "core/select-inl.h"
#include "core/separate.h"
#include "core/simd-inl.h"

namespace separationfactor {
namespace {

// Writes what the bits of the rows select; rows lie one after another, so their bits make one long string.
template <class T, bool kMaskOnly>
class PackedWriter {
 public:
  using S = typename Products<T>::S;
  using Vec = typename S::Vec;
  using Bits = typename T::Bits;

  PackedWriter(const Bits* from, Bits* to, const Products<T>& products) : from_(from), to_(to), products_(products) {}

  // The next `count` entries, 1 <= count <= 64.
  void Add(uint64_t bits, int count) {
    word_ |= bits << filled_;
    filled_ += count;
    if (filled_ < kBlock) return;
    Block(kBlock);
    filled_ -= kBlock;
    word_ = filled_ > 0 ? bits >> (count - filled_) : 0;
  }
  void Finish() {
    if (filled_ > 0) Block(filled_);
  }

 private:
  void Block(int count) {
    int j = 0;
#pragma GCC unroll 8
    for (; j + S::kLanes <= count; j += S::kLanes) {
      const Vec raw = S::Load(from_ + j);
      S::Store(to_ + j, products_.template Product<kMaskOnly>(raw, S::MaskOf(word_ >> j)));
    }
    if (j < count) {
      const Vec raw = S::LoadFirst(from_ + j, count - j);
      S::StoreFirst(to_ + j, products_.template Product<kMaskOnly>(raw, S::MaskOf(word_ >> j)), count - j);
    }
    from_ += count;
    to_ += count;
  }

  const Bits* from_;
  Bits* to_;
  const Products<T>& products_;
  uint64_t word_ = 0;
  int filled_ = 0;
};

// Lanes of 32 bits, as many as there are lanes of kBytes in a vector: for counts and their logarithms.
template <int kBytes>
struct CountLanes;
template <>
struct CountLanes<4> {
  typedef int32_t Counts __attribute__((vector_size(kVectorBytes)));
  typedef float Floats __attribute__((vector_size(kVectorBytes)));
};
template <>
struct CountLanes<8> {
  typedef int32_t Counts __attribute__((vector_size(kVectorBytes / 2)));
  typedef float Floats __attribute__((vector_size(kVectorBytes / 2)));
};

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

// Rows of up to kMaxEntries, as many at a time as a vector has lanes: each lane is a row, each vector a column,
// so that nothing goes across lanes. Columns hold scores as they are, or order keys where there are NaN, which
// scores do not order, and in the half types.
template <class T, Score kScore>
class ShortRows {
 public:
  using L = Scored<T, kScore>;
  using Bits = typename T::Bits;
  using Numbers = typename L::Numbers;
  using Wide = Simd<typename T::Number>;
  using Vec = typename Wide::Vec;
  using IntVec = typename Wide::IntVec;
  using Integer = typename Wide::Integer;
  static constexpr int kRows = Wide::kLanes;
  static constexpr int kMaxEntries = 256;
  static constexpr int kMaxWord = 32;  // entries of rows whose bits are kept in a lane
  static constexpr bool kIsHalf = sizeof(Bits) == 2;

  static void Separate(const SeparateArgs& args, int64_t begin, int64_t end, const Products<T>& products) {
    const auto k = static_cast<int>(args.k);
    const auto batch_at = [&args](int64_t row, int64_t rows) {
      return Batch{static_cast<const Bits*>(args.x) + row * args.n, static_cast<Bits*>(args.y) + row * args.n,
                   args.selected + row * BitmaskBytes(args.n), static_cast<int>(Smaller(kRows, rows)),
                   static_cast<int>(args.n)};
    };
    if constexpr (!kIsHalf) {
      if (kGroup <= args.n && args.n <= kMostGroups * kGroup) {
        const int64_t batches = (end - begin) / kRows;
        const auto separate = products.MaskOnly() ? GroupsOf<true>(args.n) : GroupsOf<false>(args.n);
        if (batches > 0) separate(batch_at(begin, kRows), batches, k, products);
        begin += batches * kRows;
      }
    }
    const auto separate = products.MaskOnly() ? SeparateBatch<true> : SeparateBatch<false>;
    for (int64_t row = begin; row < end; row += kRows) separate(batch_at(row, end - row), k, products);
  }

 private:
  using Counts = typename CountLanes<sizeof(Integer)>::Counts;
  using Floats = typename CountLanes<sizeof(Integer)>::Floats;
  using Mask = typename Wide::Mask;

  static constexpr int kElement = sizeof(Integer), kPart = 16 / kElement;
  // Of longer rows, sorting finds no more than the eighth; sixteen vectors sorted do not stay in registers.
  static constexpr int kMostSorted = 8;
  // Columns beyond the last one, as whole groups are sorted.
  static constexpr int kPadding = kMaxWord / 2;

  struct Batch {
    const Bits* x;
    Bits* y;
    uint8_t* selected;
    int rows, n;
  };

  // Of rows that SeparateGroups takes.
  static constexpr int kGroup = 4, kMostGroups = 4;

  // The rows' cuts in order keys: all above these, and the first few that equal them.
  struct Cuts {
    IntVec keys, quotas;
  };

  template <bool kMaskOnly>
  static void SeparateBatch(const Batch& batch, int k, const Products<T>& products) {
    const int n = batch.n;
    if (n < 2) __builtin_unreachable();  // a row of one has all or nothing selected
    if constexpr (kIsHalf) {
      IntVec keys[kMaxEntries + kPadding];
      LoadColumns(batch, keys);
      SelectAndWrite<kMaskOnly>(batch, k, static_cast<const Vec*>(nullptr), keys, products);
    } else {
      Vec entries[kMaxEntries + kPadding];
      const bool has_nan = LoadColumns(batch, entries);
      if (has_nan || !IsSorted(n, k)) {
        IntVec keys[kMaxEntries + kPadding];
        for (int j = 0; j < n; ++j) keys[j] = Key(L::Of(entries[j]));
        SelectAndWrite<kMaskOnly>(batch, k, entries, keys, products);
      } else if (kScore == Score::kValue) {
        SelectAndWrite<kMaskOnly>(batch, k, entries, entries, products);
      } else {
        Vec scores[kMaxEntries + kPadding];
        for (int j = 0; j < n; ++j) scores[j] = L::Of(entries[j]);
        SelectAndWrite<kMaskOnly>(batch, k, entries, scores, products);
      }
    }
  }

  // Whether sorting finds the cut. Bisection, which finds the others, goes over order keys.
  static bool IsSorted(int n, int k) { return n <= kMaxWord || Smaller(k, n - k + 1) <= kMostSorted; }

  // Columns are of scores or of order keys; either way, `>` is the order.
  template <bool kMaskOnly, class Column>
  [[gnu::always_inline]] static void SelectAndWrite(const Batch& batch, int k, const Vec* entries, Column* columns,
                                                    const Products<T>& products) {
    const int n = batch.n;
    if (n <= kMaxWord) {
      Mask masks[kMaxWord];
      const IntVec row_bits = MarkGreatest(columns, n, k, masks);
      WriteMasked<kMaskOnly>(batch, entries, masks, row_bits, products);
    } else if (std::is_same<Column, Vec>::value || IsSorted(n, k)) {
      WriteRows(batch, CutBelow(columns, n, k), products);
    } else if constexpr (std::is_same<Column, IntVec>::value) {
      WriteRows(batch, CutByBisection(columns, n, k), products);
    }
  }

  // ---- Whole batches of rows of 4 to 16 entries ----------------------------------------------------------

  // Columns come in groups of four, and how many there are is known to the compiler, which keeps in registers what it
  // can. The last group is of the rows' last four entries; what the group before has of them comes again.
  //
  // Whatever the networks make of a NaN: not less than a number are the NaNs and what is as great. If these are k, they
  // are the greatest. If not, or if the threshold is a NaN, which selects all, SeparateBatch does the work.
  template <bool kMaskOnly, int kGroups>
  [[gnu::noinline]] static void SeparateGroups(Batch batch, int64_t batches, int k, const Products<T>& by_reference) {
    constexpr int kColumns = kGroups * kGroup, kLast = kColumns - kGroup;
    constexpr int kFirst = kColumns < kMostSorted ? kColumns : kMostSorted;
    constexpr int kMore = kColumns - kFirst > kGroup ? kMostSorted : kGroup;
    using Word = std::conditional_t<(kColumns <= 8), uint8_t, uint16_t>;
    const Products<T> products = by_reference;  // of which no store can be a part
    const int n = batch.n, again = kColumns - n;
    const int64_t row_bytes = int64_t{n} * kElement, last_bytes = row_bytes - kGroup * kElement;
    const bool is_from_below = k > n - k + 1;
    const int rank = is_from_below ? n - k + 1 : k;
    const IntVec flip = is_from_below ? FlipBits(Vec{}) : IntVec{};
    const Vec padding = (Vec)((IntVec)Wide::Set(-__builtin_inff()) ^ flip);
    // What a selected column adds to its rows' words: its bit and, beyond the bits, one to be counted.
    constexpr int kCount = kMostGroups * kGroup;
    const IntVec wanted = Wide::SetInteger(static_cast<Integer>(k));
    IntVec marks[kColumns];
    for (int j = 0; j < kColumns; ++j) {
      const int mark = j < kLast ? 1 << j : (j - kLast < again ? 0 : 1 << (j - again));
      marks[j] = Wide::SetInteger(static_cast<Integer>(mark == 0 ? 0 : mark | 1 << kCount));
    }
    // The compiler would rather make them again, each by three instructions.
    __asm__ volatile("" : : "r"(marks) : "memory");
    const Bits* x = batch.x;
    Bits* y = batch.y;
    uint8_t* selected = batch.selected;
    // Where there was one that SeparateBatch had to do, there may be more.
    constexpr int kPassOn = 16;
    int pass_on = 0;
    const auto advance = [&] {
      x += kRows * n;
      y += kRows * n;
      selected += kRows * sizeof(Word);
    };
    for (; batches > 0; --batches, advance()) {
      if (pass_on > 0) {
        SeparateBatch<kMaskOnly>(Batch{x, y, selected, kRows, n}, k, by_reference);
        --pass_on;
        continue;
      }
      Vec entries[kColumns], scores[kColumns];
      const FirstRows<const char> x_rows(reinterpret_cast<const char*>(x), row_bytes);
#pragma GCC unroll 4
      for (int group = 0; group < kGroups; ++group) {
        const int64_t offset = group < kGroups - 1 ? kGroup * kElement * group : last_bytes;
        LoadGroup(x_rows, offset, kPart * row_bytes, entries + group * kGroup);
      }
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) scores[j] = L::Of(entries[j]);
      Vec threshold = scores[0];
      if (k == 1) {
#pragma GCC unroll 16
        for (int j = 1; j < kColumns; ++j) threshold = Greater(scores[j], threshold);
      } else {
        Vec once[kColumns];
#pragma GCC unroll 16
        for (int j = 0; j < kColumns; ++j) once[j] = scores[j];
        for (int j = 0; j < again; ++j) once[kLast + j] = padding;
        threshold = (Vec)((IntVec)RankSorted<kFirst, kMore>(once, kColumns, flip, rank) ^ flip);
      }
      Mask masks[kColumns];
      IntVec words{};
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) {
        masks[j] = Wide::NotLess(scores[j], threshold);
        words = Wide::AddIf(words, masks[j], marks[j]);
      }
      if (Any((words >> kCount) != wanted)) {
        SeparateBatch<kMaskOnly>(Batch{x, y, selected, kRows, n}, k, by_reference);
        pass_on = kPassOn;
      } else {
        WriteWords<Word>(Batch{x, y, selected, kRows, n}, words);
        const FirstRows<char> y_rows(reinterpret_cast<char*>(y), row_bytes);
        // What comes again is written first, and then over.
#pragma GCC unroll 4
        for (int group = kGroups - 1; group >= 0; --group) {
          Vec* const columns = entries + group * kGroup;
#pragma GCC unroll 4
          for (int j = 0; j < kGroup; ++j) {
            columns[j] = products.template Product<kMaskOnly>(columns[j], masks[group * kGroup + j]);
          }
          const int64_t offset = group < kGroups - 1 ? kGroup * kElement * group : last_bytes;
          StoreGroup(columns, y_rows, offset, kPart * row_bytes);
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

  // Four columns, from 16 bytes of each row or, of float64, twice that.
  [[gnu::always_inline]] static void LoadGroup(const FirstRows<const char>& rows, int64_t offset, int64_t stride,
                                               Vec* columns) {
    for (int j = 0; j < kGroup; j += kPart) {
      Vec part[kPart];
      for (int row = 0; row < kPart; ++row) {
        part[row] = Wide::LoadQuarters(rows.of[row] + offset + j * kElement, stride);
      }
      Turn(part);
      for (int i = 0; i < kPart; ++i) columns[j + i] = part[i];
    }
  }
  [[gnu::always_inline]] static void StoreGroup(const Vec* columns, const FirstRows<char>& rows, int64_t offset,
                                                int64_t stride) {
    for (int j = 0; j < kGroup; j += kPart) {
      Vec part[kPart];
      for (int i = 0; i < kPart; ++i) part[i] = columns[j + i];
      Turn(part);
      for (int row = 0; row < kPart; ++row) {
        Wide::StoreQuarters(rows.of[row] + offset + j * kElement, stride, part[row]);
      }
    }
  }

  // ---- Rows and columns --------------------------------------------------------------------------------

  // Makes columns[j] the rows' j-th entries, or their keys in the half types. Returns whether there is a NaN among
  // entries.
  template <class Column>
  [[gnu::always_inline]] static bool LoadColumns(const Batch& batch, Column* columns) {
    const int rows = batch.rows, n = batch.n;
    alignas(64) Integer copy[kRows * kMaxEntries + 2 * Wide::kLanes];
    const char* from = reinterpret_cast<const char*>(batch.x);
    if constexpr (kIsHalf) {
      Widen(batch.x, rows * n, copy);
      from = reinterpret_cast<const char*>(copy);
    } else if (rows < kRows || n < kPart) {
      // What follows the rows may not be read.
      std::memcpy(copy, batch.x, rows * n * kElement);
      std::memset(copy + rows * n, 0, ((kRows - rows) * n + kPart) * kElement);
      from = reinterpret_cast<const char*>(copy);
    }
    const int64_t row_bytes = int64_t{n} * kElement;
    auto nans = Wide::Unordered(Vec{}, Vec{});
    for (int j = 0;; j = NextPart(j, n)) {
      Vec part[kPart];
      for (int row = 0; row < kPart; ++row) {
        part[row] = Wide::LoadQuarters(from + row * row_bytes + j * kElement, kPart * row_bytes);
      }
      Turn(part);
      for (int i = 0; i < kPart; ++i) columns[j + i] = (Column)part[i];
      if constexpr (!kIsHalf) {
        for (int i = 0; i < kPart; i += 2) nans |= Wide::Unordered(part[i], part[i + 1]);
      }
      if (j + kPart >= n) return Wide::BitsOf(nans) != 0;
    }
  }

  // The last columns of a row are taken twice, rather than what follows the row.
  static int NextPart(int j, int n) { return j + 2 * kPart <= n ? j + kPart : n - kPart; }

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

  // Writes rows of up to kMaxWord entries: columns of y, turned back into rows. The half types' are packed from bits,
  // as their entries are not in the columns; so are rows too short to turn.
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
        for (int j = 0;; j = NextPart(j, n)) {
          Vec part[kPart];
          for (int i = 0; i < kPart; ++i) {
            part[i] = products.template Product<kMaskOnly>(entries[j + i], masks[j + i]);
          }
          Turn(part);
          for (int row = 0; row < kPart; ++row) {
            Wide::StoreQuarters(to + row * row_bytes + j * kElement, kPart * row_bytes, part[row]);
          }
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

  // Inlined, it would have GCC keep the bits in memory while they are collected.
  [[gnu::noinline]] static void WriteBits(const Batch& batch, IntVec row_bits) {
    switch (BitmaskBytes(batch.n)) {
      case 1:
        WriteWords<uint8_t>(batch, row_bits);
        break;
      case 2:
        WriteWords<uint16_t>(batch, row_bits);
        break;
      case 3: {
        Integer bits[kRows];
        __builtin_memcpy(bits, &row_bits, sizeof(bits));
        for (int row = 0; row < batch.rows; ++row) __builtin_memcpy(batch.selected + 3 * row, bits + row, 3);
        break;
      }
      default:
        WriteWords<uint32_t>(batch, row_bits);
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

  static void WriteRows(const Batch& batch, const Cuts& cuts, const Products<T>& products) {
    const int n = batch.n;
    Integer keys[kRows], quotas[kRows];
    __builtin_memcpy(keys, &cuts.keys, sizeof(keys));
    __builtin_memcpy(quotas, &cuts.quotas, sizeof(quotas));
    using R = Row<T, kScore>;
    using Lane = typename R::Lane;
    for (int row = 0; row < batch.rows; ++row) {
      if constexpr (!kIsHalf) {
        // A pivot among the negative denormals has the zeros above it, but compares as equal to them.
        constexpr Integer kBelowDenormals = -(Integer{1} << (sizeof(Integer) == 4 ? 23 : 52)) - 1;
        if (keys[row] < 0 && keys[row] > kBelowDenormals) keys[row] = kBelowDenormals;
      }
      Cut<Lane> cut{LaneOfKey<Lane>(static_cast<typename L::S::Integer>(keys[row])), static_cast<int64_t>(quotas[row])};
      if (!kIsHalf && cut.threshold != cut.threshold) {
        // A pivot between infinity and NaN has the NaNs above it; as the threshold itself, NaN has nothing.
        cut.is_nan = cut.quota > 0;
        cut.threshold = kHighest<Lane>;
      }
      R::Write(batch.x + row * n, batch.y + row * n, batch.selected + row * BitmaskBytes(n), n, cut, products);
    }
  }

  // ---- Order keys ------------------------------------------------------------------------------------------

  static IntVec Key(Vec score) {
    if constexpr (kIsHalf) {
      return (IntVec)score;
    } else {
      // Adding zero flushes denormals and makes -0 +0.
      const Vec number = score + Vec{};
      const IntVec nan = Wide::SetInteger(static_cast<Integer>(~(uint64_t{1} << (8 * sizeof(Integer) - 1))));
      return (IntVec)Wide::Blend(Wide::Unordered(number, number), (Vec)nan, (Vec)Ordered((IntVec)number));
    }
  }
  // OrderKey, and its own inverse.
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

  static IntVec FlipBits(IntVec) { return Wide::SetInteger(-1); }
  static IntVec FlipBits(Vec) { return Wide::SetInteger(kLeast); }
  static constexpr auto kLeast = static_cast<Integer>(uint64_t{1} << (8 * sizeof(Integer) - 1));
  static void Least(IntVec* least) { *least = Wide::SetInteger(kLeast); }
  static void Least(Vec* least) { *least = Wide::Set(-__builtin_inff()); }

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

  // The rank-th greatest of the flipped columns, 1 <= rank <= kSize: the kSize greatest of all are kept sorted, as
  // more columns are sorted and merged with them, kMore at a time.
  template <int kSize, int kMore = kSize, class Column>
  [[gnu::always_inline]] static Column RankSorted(const Column* columns, int n, IntVec flip, int rank) {
    static constexpr auto kSort = SortingNetwork<kSize>();
    static constexpr auto kSortMore = SortingNetwork<kMore>();
    static constexpr auto kMerge = BitonicMerge<kSize>();
    Column greatest[kSize];
    for (int i = 0; i < kSize; ++i) greatest[i] = (Column)((IntVec)columns[i] ^ flip);
    Apply(kSort, greatest, std::make_integer_sequence<int, kSort.count>());
    for (int j = kSize; j < n; j += kMore) {
      Column more[kMore];
      for (int i = 0; i < kMore; ++i) more[i] = (Column)((IntVec)columns[j + i] ^ flip);
      Apply(kSortMore, more, std::make_integer_sequence<int, kSortMore.count>());
      for (int i = kSize - kMore; i < kSize; ++i) greatest[i] = Greater(greatest[i], more[kSize - 1 - i]);
      Apply(kMerge, greatest, std::make_integer_sequence<int, kMerge.count>());
    }
    return greatest[rank - 1];
  }

  // The k-th greatest of each row, where k or n - k + 1 is at most kMostSorted or n is at most kMaxWord.
  template <class Column>
  static Column KthGreatest(Column* columns, int n, int k) {
    if (k == 1) {
      Column greatest = columns[0];
      for (int j = 1; j < n; ++j) greatest = Greater(columns[j], greatest);
      return greatest;
    }
    // The k-th from above is the n - k + 1-th from below.
    const bool is_from_below = k > n - k + 1;
    const int rank = is_from_below ? n - k + 1 : k;
    const IntVec flip = is_from_below ? FlipBits(Column{}) : IntVec{};
    Column padding;
    Least(&padding);
    for (int j = n; j < n + kPadding; ++j) columns[j] = (Column)((IntVec)padding ^ flip);
    const Column found = rank <= kMostSorted ? RankSorted<kMostSorted>(columns, n, flip, rank)
                                             : RankSorted<kPadding>(columns, n, flip, rank);
    return (Column)((IntVec)found ^ flip);
  }

  // How many of each row are at or above a bound; in four sums, as a sum waits for the one before.
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

  // How many of the entries that equal the k-th greatest are selected: the first ones.
  template <class Column>
  static IntVec Quotas(const Column* columns, int n, int k, Column threshold) {
    IntVec quotas = Wide::SetInteger(static_cast<Integer>(k - n));
    for (int j = 0; j < n; ++j) quotas = Wide::AddIf(quotas, Wide::AtLeast(threshold, columns[j]), Wide::SetInteger(1));
    return quotas;
  }

  // Masks of what is selected, a column each, and the bits of each row.
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

  template <class Column>
  static Cuts CutBelow(Column* columns, int n, int k) {
    const Column threshold = KthGreatest(columns, n, k);
    IntVec keys;
    if constexpr (std::is_same<Column, IntVec>::value) {
      keys = threshold;
    } else {
      keys = Key(threshold);
    }
    const IntVec is_tie = CountAtLeast(columns, n, threshold) != Wide::SetInteger(static_cast<Integer>(k));
    // Where no tie goes across the cut, it lies just below the threshold, and nobody need look at ties.
    if (!Any(is_tie)) return {keys - 1, IntVec{}};
    return {keys - 1 - is_tie, Quotas(columns, n, k, threshold) & is_tie};
  }

  static Floats RoughLog2s(Floats x) {
    const Counts bits = (Counts)x - 0x3F800000;
    return __builtin_convertvector(bits, Floats) * 0x1p-23f;
  }
  static Floats LogOddsOf(Counts counts, float n) {
    const Floats count = __builtin_convertvector(counts, Floats);
    return RoughLog2s(count + 0.5f) - RoughLog2s(n - count + 0.5f);
  }
  static Counts CountsOf(IntVec counts) {
    if constexpr (sizeof(Integer) == 4) return counts;
    return __builtin_convertvector(counts, Counts);
  }
  static Vec VecOf(Floats floats) {
    if constexpr (sizeof(Integer) == 4) return floats;
    return __builtin_convertvector(floats, Vec);
  }
  static IntVec MaskOf(Counts mask) {
    if constexpr (sizeof(Integer) == 4) return mask;
    return __builtin_convertvector(mask, IntVec);
  }
  static bool Any(IntVec mask) { return Wide::BitsOf(Wide::Unordered((Vec)mask, (Vec)mask)) != 0; }

  // SelectByBisection, for all rows at once. Keys take the place of scores, so NaN needs no care.
  static Cuts CutByBisection(const IntVec* columns, int n, int k) {
    constexpr int kGuesses = 8;
    const IntVec one = Wide::SetInteger(1), wanted = Wide::SetInteger(static_cast<Integer>(k));
    IntVec lows[2] = {columns[0], columns[n - 1]}, highs[2] = {columns[0], columns[n - 1]};
    for (int j = 0; j + 2 <= n; j += 2) {
      for (int i = 0; i < 2; ++i) {
        const IntVec key = columns[j + i];
        lows[i] = key < lows[i] ? key : lows[i];
        highs[i] = key > highs[i] ? key : highs[i];
      }
    }
    IntVec low = lows[0] < lows[1] ? lows[0] : lows[1], high = highs[0] > highs[1] ? highs[0] : highs[1];
    IntVec above_high{};
    const auto size = static_cast<float>(n);
    const float odds = LogOdds(static_cast<float>(k), size);
    Floats low_odds = Floats{} + (LogOdds(size, size) - odds), high_odds = Floats{} + (LogOdds(0, size) - odds);
    Counts was_low{}, was_high{};
    for (int step = 0;; ++step) {
      const IntVec is_open = low < high;
      if (!Any(is_open)) break;
      if (step % (kGuesses + 1) == kGuesses) {
        IntVec new_low = high, new_high = low;
        for (int j = 0; j < n; ++j) {
          const IntVec key = columns[j];
          new_low = ((key >= low) & (key < new_low)) ? key : new_low;
          new_high = ((key <= high) & (key > new_high)) ? key : new_high;
        }
        low = is_open ? new_low : low;
        high = is_open ? new_high : high;
        continue;
      }
      IntVec pivot = (low & high) + ((low ^ high) >> 1);
      if (step < kGuesses) {
        const Vec low_number = NumberOf(low), high_number = NumberOf(high);
        const Vec fraction = VecOf(high_odds / (high_odds - low_odds));
        const Vec guess = high_number - (high_number - low_number) * fraction;
        const IntVec is_inside = (guess >= low_number) & (guess < high_number);
        const IntVec guess_key = KeyOfNumber(guess);
        pivot = (is_inside & (guess_key < high) & (guess_key >= low)) ? guess_key : pivot;
      }
      const IntVec above = CountAtLeast(columns, n, Wide::AddWrapped(pivot, one));
      const IntVec is_found = is_open & (above == wanted);
      const IntVec goes_up = is_open & (above > wanted), goes_down = is_open & (above < wanted);
      const Counts up = CountsOf(goes_up), down = CountsOf(goes_down);
      const Floats pivot_odds = LogOddsOf(CountsOf(above), size) - odds;
      high_odds = down ? pivot_odds : ((up & was_low) ? high_odds * 0.5f : high_odds);
      low_odds = up ? pivot_odds : ((down & was_high) ? low_odds * 0.5f : low_odds);
      low = goes_up ? Wide::AddWrapped(pivot, one) : (is_found ? pivot : low);
      high = (goes_down | is_found) ? pivot : high;
      above_high = (goes_down | is_found) ? above : above_high;
      was_low = up;
      was_high = down;
    }
    return {high, wanted - above_high};
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SHORT_ROWS_INL_H_
