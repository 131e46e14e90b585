// Short rows, a vector of rows at a time.

#ifndef SEPARATIONFACTOR_CORE_SHORT_ROWS_INL_H_
#define SEPARATIONFACTOR_CORE_SHORT_ROWS_INL_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

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

// Rows of up to kMaxEntries, as many at a time as a vector has lanes: each lane is a row, each vector a column
// of order keys, so that nothing goes across lanes.
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
  static constexpr int kMaxRanked = 32;
  static constexpr bool kIsHalf = sizeof(Bits) == 2;

  static void Separate(const SeparateArgs& args, int64_t begin, int64_t end, const Products<T>& products) {
    for (int64_t row = begin; row < end; row += kRows) {
      const int rows = static_cast<int>(Smaller(kRows, end - row));
      // What follows the last rows may not be read.
      const bool is_last = end - row <= kRows;
      const auto separate = products.MaskOnly() ? SeparateBatch<true> : SeparateBatch<false>;
      separate(static_cast<const Bits*>(args.x) + row * args.n, static_cast<Bits*>(args.y) + row * args.n,
               args.selected + row * BitmaskBytes(args.n), rows, static_cast<int>(args.n), static_cast<int>(args.k),
               is_last, products);
    }
  }

 private:
  using Counts = typename CountLanes<sizeof(Integer)>::Counts;
  using Floats = typename CountLanes<sizeof(Integer)>::Floats;

  template <bool kMaskOnly>
  static void SeparateBatch(const Bits* x, Bits* y, uint8_t* selected, int rows, int n, int k, bool is_last,
                            const Products<T>& products) {
    IntVec columns[kMaxEntries + 4];
    LoadColumns(x, rows, n, is_last, columns);
    if (n > kMaxRanked) {
      SelectAndWrite(columns, x, y, selected, rows, n, k, products);
      return;
    }
    const IntVec row_bits = k == 1 ? Greatest(columns, n) : Ranked(columns, n, k);
    PackedWriter<T, kMaskOnly> writer(x, y, products);
    const auto bytes = static_cast<int>(BitmaskBytes(n));
    Integer bits[kRows];
    __builtin_memcpy(bits, &row_bits, sizeof(bits));
    for (int row = 0; row < rows; ++row) {
      const auto row_word = static_cast<uint32_t>(bits[row]);
      if (bytes == 1) {
        selected[row] = static_cast<uint8_t>(row_word);
      } else if (bytes == 2) {
        const auto two = static_cast<uint16_t>(row_word);
        __builtin_memcpy(selected + 2 * row, &two, 2);
      } else {
        __builtin_memcpy(selected + bytes * row, &row_word, bytes);
      }
      writer.Add(row_word, n);
    }
    writer.Finish();
  }

  // columns[j] = the keys of the rows' j-th entries.
  static void LoadColumns(const Bits* x, int rows, int n, bool is_last, IntVec* columns) {
    constexpr int kElement = sizeof(Integer), kPart = 16 / kElement;
    alignas(64) Integer copy[kRows * kMaxEntries + 2 * Wide::kLanes];
    const char* from = reinterpret_cast<const char*>(x);
    if constexpr (kIsHalf) {
      Widen(x, rows * n, copy);
      from = reinterpret_cast<const char*>(copy);
    } else if (is_last) {
      std::memcpy(copy, x, rows * n * kElement);
      std::memset(copy + rows * n, 0, (kRows - rows) * n * kElement);
      from = reinterpret_cast<const char*>(copy);
    }
    const int64_t row_bytes = int64_t{n} * kElement;
    for (int j = 0; j < n; j += kPart) {
      Vec part[kPart];
      for (int row = 0; row < kPart; ++row) {
        part[row] = Wide::LoadQuarters(from + row * row_bytes + j * kElement, kPart * row_bytes);
      }
      if constexpr (kPart == 2) {
        columns[j] = Key(Wide::template Interleave<8, false>(part[0], part[1]));
        columns[j + 1] = Key(Wide::template Interleave<8, true>(part[0], part[1]));
      } else {
        const Vec low01 = Wide::template Interleave<4, false>(part[0], part[1]);
        const Vec high01 = Wide::template Interleave<4, true>(part[0], part[1]);
        const Vec low23 = Wide::template Interleave<4, false>(part[2], part[3]);
        const Vec high23 = Wide::template Interleave<4, true>(part[2], part[3]);
        columns[j] = Key(Wide::template Interleave<8, false>(low01, low23));
        columns[j + 1] = Key(Wide::template Interleave<8, true>(low01, low23));
        columns[j + 2] = Key(Wide::template Interleave<8, false>(high01, high23));
        columns[j + 3] = Key(Wide::template Interleave<8, true>(high01, high23));
      }
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

  // The half types' keys are made before they are widened.
  static IntVec Key(Vec column) {
    if constexpr (kIsHalf) {
      return (IntVec)column;
    } else {
      // Adding zero flushes denormals and makes -0 +0.
      const Vec number = L::Of(column) + Vec{};
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

  // k = 1: the bit of the first greatest of each row.
  static IntVec Greatest(const IntVec* columns, int n) {
    IntVec greatest = columns[0], bit = Wide::SetInteger(1), bits = bit;
    for (int j = 1; j < n; ++j) {
      bit = Wide::AddWrapped(bit, bit);
      const auto above = columns[j] > greatest;
      bits = above ? bit : bits;
      greatest = above ? columns[j] : greatest;
    }
    return bits;
  }

  // The bits of those that fewer than k others beat, by comparing all pairs.
  static IntVec Ranked(const IntVec* columns, int n, int k) {
    const IntVec one = Wide::SetInteger(1), minus_one = Wide::SetInteger(-1);
    IntVec ranks[kMaxRanked];
    for (int j = 0; j < n; ++j) ranks[j] = Wide::SetInteger(static_cast<Integer>(j));
    for (int i = 0; i < n; ++i) {
      const IntVec key = columns[i];
      IntVec rank = ranks[i];
      for (int j = i + 1; j < n; ++j) {
        // The earlier one is ahead unless the later one is greater.
        rank = Wide::AddIfGreater(rank, columns[j], key, one);
        ranks[j] = Wide::AddIfGreater(ranks[j], columns[j], key, minus_one);
      }
      ranks[i] = rank;
    }
    const IntVec k_vec = Wide::SetInteger(static_cast<Integer>(k));
    IntVec bit = one, bits{};
    for (int j = 0; j < n; ++j) {
      bits = Wide::AddIfGreater(bits, k_vec, ranks[j], bit);
      bit = Wide::AddWrapped(bit, bit);
    }
    return bits;
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
  static void SelectAndWrite(const IntVec* columns, const Bits* x, Bits* y, uint8_t* selected, int rows, int n, int k,
                             const Products<T>& products) {
    constexpr int kGuesses = 8;
    const IntVec one = Wide::SetInteger(1), wanted = Wide::SetInteger(static_cast<Integer>(k));
    IntVec low = columns[0], high = columns[0];
    for (int j = 1; j < n; ++j) {
      low = columns[j] < low ? columns[j] : low;
      high = columns[j] > high ? columns[j] : high;
    }
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
      IntVec above{};
      for (int j = 0; j < n; ++j) above = Wide::AddIfGreater(above, columns[j], pivot, one);
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
    Integer keys[kRows], quotas[kRows];
    const IntVec quota = wanted - above_high;
    __builtin_memcpy(keys, &high, sizeof(keys));
    __builtin_memcpy(quotas, &quota, sizeof(quotas));
    using R = Row<T, kScore>;
    using Lane = typename R::Lane;
    for (int row = 0; row < rows; ++row) {
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
      R::Write(x + row * n, y + row * n, selected + row * BitmaskBytes(n), n, cut, products);
    }
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SHORT_ROWS_INL_H_
