// The kernels, once for all instruction sets: see simd-inl.h for how that works.
//
// A row's selection is a Cut: what scores above a threshold, and the first few of those that equal it. Finding
// the cut and writing what it selects are separate steps, except for long rows with a small k, where one pass
// over the row does both (SeparateByStream).

#ifndef SEPARATIONFACTOR_CORE_KERNELS_INL_H_
#define SEPARATIONFACTOR_CORE_KERNELS_INL_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/dtypes.h"
#include "core/kernels.h"
#include "core/separate.h"
#include "core/simd-inl.h"

namespace separationfactor {
namespace {

template <class Lane>
constexpr Lane kLowest = static_cast<Lane>(-__builtin_inff());
template <>
constexpr int16_t kLowest<int16_t> = INT16_MIN;
template <class Lane>
constexpr Lane kHighest = static_cast<Lane>(__builtin_inff());
template <>
constexpr int16_t kHighest<int16_t> = INT16_MAX;

inline int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Greater(int64_t a, int64_t b) { return a > b ? a : b; }
inline float Least(float a, float b) { return a < b ? a : b; }

// What it costs to look at a candidate, over what it costs to sample an entry, squared.
constexpr float kSampleCost = 57600;

// ---- Scores ----------------------------------------------------------------------------------------------

// Lanes as numbers to interpolate between, and back, roughly.
template <class Lane>
struct SameNumbers {
  using Number = Lane;
  static Number ToNumber(Lane lane) { return lane; }
  static Lane ToLane(Number number) { return number; }
};

// Of the order keys of a half type. float16's bits, with an exponent of 5 bits where float32 has 8, are a number
// 2^-112 times as great.
template <class T>
struct NumbersOfKeys {
  using Number = float;
  static constexpr bool kIsBFloat16 = std::is_same<T, BFloat16>::value;
  static constexpr int kShift = kIsBFloat16 ? 16 : 13;
  static constexpr float kScale = kIsBFloat16 ? 1.0f : 0x1p112f, kInverse = kIsBFloat16 ? 1.0f : 0x1p-112f;
  static Number ToNumber(int16_t key) {
    const int32_t magnitude = key < 0 ? ~key : key;
    const float number = BitCast<float>(magnitude << kShift) * kScale;
    return key < 0 ? -number : number;
  }
  static int16_t ToLane(Number number) {
    const int32_t bits = BitCast<int32_t>(number * kInverse);
    const auto magnitude = static_cast<int16_t>((bits & INT32_MAX) >> kShift);
    return static_cast<int16_t>(bits < 0 ? ~magnitude : magnitude);
  }
};

// Scores that are lanes already.
template <class LaneType, class NumbersType = SameNumbers<LaneType>>
struct Lanes {
  using Element = LaneType;
  using Lane = LaneType;
  using Numbers = NumbersType;
  using AsLanes = Lanes;
  using S = Simd<Lane>;
  using Vec = typename S::Vec;
  static Vec Load(const Lane* x) { return S::Load(x); }
  static Vec LoadFirst(const Lane* x, int count, Lane pad) {
    return S::Blend(S::FirstLanes(count), S::LoadFirst(x, count), S::Set(pad));
  }
};

// How the elements of a row become lanes to compare. With denormals-are-zero the floating-point comparisons
// order float32 and float64 just as the contract has it, but for NaN; the half types become order keys.
template <class T, Score kScore>
struct Scored {
  using Element = typename T::Bits;
  using Lane =
      std::conditional_t<sizeof(Element) == 4, float, std::conditional_t<sizeof(Element) == 8, double, int16_t>>;
  using Numbers = std::conditional_t<sizeof(Element) == 2, NumbersOfKeys<T>, SameNumbers<Lane>>;
  using AsLanes = Lanes<Lane, Numbers>;
  using S = Simd<Lane>;
  using Vec = typename S::Vec;
  using IntVec = typename S::IntVec;

  static Vec Of(Vec raw) {
    constexpr auto kMagnitudeBits = static_cast<typename S::Integer>(~(Element{1} << (8 * sizeof(Element) - 1)));
    if constexpr (sizeof(Element) > 2) {
      return kScore == Score::kMagnitude ? (Vec)((IntVec)raw & S::SetInteger(kMagnitudeBits)) : raw;
    } else {
      const Vec magnitude = raw & S::SetInteger(kMagnitudeBits);
      Vec key = magnitude;
      if (kScore == Score::kValue) key = raw ^ ((raw >> 15) & S::SetInteger(kMagnitudeBits));
      // 0x80 is the smallest normal bfloat16.
      constexpr int16_t kFirstNotZero = T::kDenormalsAreZero ? 0x80 : 1;
      key = magnitude < S::SetInteger(kFirstNotZero) ? Vec{} : key;
      return magnitude > S::SetInteger(static_cast<int16_t>(T::kExponent)) ? S::SetInteger(INT16_MAX) : key;
    }
  }

  static Vec Load(const Element* x) { return Of(S::Load(x)); }
  // The first `count` lanes; `pad` after them.
  static Vec LoadFirst(const Element* x, int count, Lane pad) {
    return S::Blend(S::FirstLanes(count), Of(S::LoadFirst(x, count)), S::Set(pad));
  }
};

// Integers in the order of lanes, NaN aside, without gaps: where bisection is sure to end.
inline int32_t OrderKey(float lane) {
  const int32_t bits = BitCast<int32_t>(lane);
  return bits ^ (bits >> 31 & INT32_MAX);
}
inline int64_t OrderKey(double lane) {
  const int64_t bits = BitCast<int64_t>(lane);
  return bits ^ (bits >> 63 & INT64_MAX);
}
inline int16_t OrderKey(int16_t lane) { return lane; }

template <class Lane>
Lane LaneOfKey(typename Simd<Lane>::Integer key) {
  using Integer = typename Simd<Lane>::Integer;
  if constexpr (sizeof(Lane) == 2) return key;
  const Integer sign = key >> (8 * sizeof(Lane) - 1);
  return BitCast<Lane>(
      static_cast<Integer>(key ^ (sign & static_cast<Integer>(~(uint64_t{1} << (8 * sizeof(Lane) - 1))))));
}

template <class Lane>
struct Cut {
  Lane threshold;
  int64_t quota;        // how many of those that equal the threshold are selected: the first ones
  bool is_nan = false;  // the threshold is NaN: nothing is above it, and every NaN equals it

  bool IsAbove(Lane score) const { return !is_nan & !(score <= threshold); }
  bool IsEqual(Lane score) const { return is_nan ? score != score : score == threshold; }
};

// ---- Products --------------------------------------------------------------------------------------------

// A factor as the kernels use it. One that is zero (or denormal, as flush-to-zero has it; the comparison does
// not lean on the mode) or NaN gives the same product for any number: it multiplies a zero in its place, which
// gives +0 for masked infinities, and NaN bits that do not depend on the order of operands.
template <class T>
struct Factor {
  using Number = typename T::Number;
  using Bits = typename T::Bits;

  explicit Factor(double factor) {
    constexpr double kSmallestNormal = sizeof(Number) == 4 ? 1.1754943508222875e-38 : 2.2250738585072014e-308;
    is_zero = __builtin_fabs(factor) < kSmallestNormal;
    number = is_zero ? Number{0} : static_cast<Number>(factor);
    is_constant = is_zero || factor != factor;
    if (factor != factor) number = __builtin_copysign(Number{__builtin_nanf("")}, number);
    keep = is_constant ? Bits{0} : static_cast<Bits>(~Bits{0});
  }
  Bits operator*(Bits bits) const { return T::FromNumber(T::ToNumber(static_cast<Bits>(bits & keep)) * number); }

  Number number;
  Bits keep;
  bool is_zero;
  bool is_constant;
};

// float32 and float64.
template <class T>
struct Multiply {
  using Lane = typename T::Number;
  using S = Simd<Lane>;
  using Vec = typename S::Vec;
  using Mask = typename S::Mask;

  static Vec By(Vec raw, Vec factor) { return raw * factor; }
  static Vec By(Vec raw, Mask mask, Vec if_set, Vec if_not) { return raw * S::Blend(mask, if_set, if_not); }
};

// bfloat16: the upper half of a float32.
struct MultiplyBFloat16 {
  using S = Simd<int16_t>;
  using Vec = S::Vec;
  using Mask = S::Mask;
  using Wide = Simd<float>;
  using WideVec = Wide::Vec;
  using WideBits = Wide::IntVec;

  static Vec By(Vec raw, WideVec factor) { return Narrow(raw, Low(Vec{}, raw) * factor, High(Vec{}, raw) * factor); }
  static Vec By(Vec raw, Mask mask, WideVec if_set, WideVec if_not) {
    const Vec lanes = S::Blend(mask, Vec{} - 1, Vec{});
    const WideBits low = (WideBits)Low(lanes, lanes), high = (WideBits)High(lanes, lanes);
    const WideBits set = (WideBits)if_set, not_set = (WideBits)if_not;
    return Narrow(raw, Low(Vec{}, raw) * (WideVec)((low & set) | (~low & not_set)),
                  High(Vec{}, raw) * (WideVec)((high & set) | (~high & not_set)));
  }

 private:
  // 32-bit lanes with b's above a's, of the lower or upper half of each 16 bytes.
  static WideVec Low(Vec a, Vec b) { return (WideVec)S::template Interleave<2, false>(a, b); }
  static WideVec High(Vec a, Vec b) { return (WideVec)S::template Interleave<2, true>(a, b); }

  // As BFloat16::FromNumber. Only of a NaN in `raw` does the product have bits that rounding could carry away.
  static Vec Narrow(Vec raw, WideVec low, WideVec high) {
    const Vec rounded = S::PackUpper(Round((WideBits)low), Round((WideBits)high));
    const Vec nan = (raw & S::SetInteger(INT16_MIN)) | S::SetInteger(0x7FC0);
    return (raw & S::SetInteger(INT16_MAX)) > S::SetInteger(0x7F80) ? nan : rounded;
  }
  static WideBits Round(WideBits bits) { return bits + (((bits >> 16) & 1) + 0x7FFF); }
};

// float16, half a vector at a time in float32.
struct MultiplyFloat16 {
  using S = Simd<int16_t>;
  using Vec = S::Vec;
  using Mask = S::Mask;
  using Wide = Simd<float>;
  using WideVec = Wide::Vec;
  typedef int16_t HalfVec __attribute__((vector_size(kVectorBytes / 2)));

  static Vec By(Vec raw, WideVec factor) { return Narrow(Widen<0>(raw) * factor, Widen<1>(raw) * factor); }
  static Vec By(Vec raw, Mask mask, WideVec if_set, WideVec if_not) {
    return Narrow(Widen<0>(raw) * Wide::Blend(MaskPart<0>(mask), if_set, if_not),
                  Widen<1>(raw) * Wide::Blend(MaskPart<1>(mask), if_set, if_not));
  }

 private:
#if SEPARATIONFACTOR_AVX512
  template <int kPart>
  static Wide::Mask MaskPart(Mask mask) {
    return static_cast<Wide::Mask>(mask >> (16 * kPart));
  }
  template <int kPart>
  static WideVec Widen(Vec vec) {
    return _mm512_cvtph_ps(_mm512_extracti64x4_epi64((__m512i)vec, kPart));
  }
  static Vec Narrow(WideVec low, WideVec high) {
    constexpr int kRounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return QuietNan((Vec)_mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, kRounding)),
                                            _mm512_cvtps_ph(high, kRounding), 1));
  }
#elif SEPARATIONFACTOR_AVX2
  template <int kPart>
  static Wide::Mask MaskPart(Mask mask) {
    return (Wide::Mask)_mm256_cvtepi16_epi32(_mm256_extracti128_si256((__m256i)mask, kPart));
  }
  template <int kPart>
  static WideVec Widen(Vec vec) {
    return _mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)vec, kPart));
  }
  static Vec Narrow(WideVec low, WideVec high) {
    constexpr int kRounding = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return QuietNan((Vec)_mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(low, kRounding)),
                                                 _mm256_cvtps_ph(high, kRounding), 1));
  }
#else
  template <int kPart>
  static Wide::Mask MaskPart(Mask mask) {
    Wide::Mask part;
    for (int i = 0; i < Wide::kLanes; ++i) part[i] = mask[kPart * Wide::kLanes + i];
    return part;
  }
  template <int kPart>
  static WideVec Widen(Vec vec) {
    WideVec wide;
    for (int i = 0; i < Wide::kLanes; ++i) {
      wide[i] = Float16::ToNumber(static_cast<uint16_t>(vec[kPart * Wide::kLanes + i]));
    }
    return wide;
  }
  static Vec Narrow(WideVec low, WideVec high) {
    Vec vec;
    for (int i = 0; i < Wide::kLanes; ++i) {
      vec[i] = static_cast<int16_t>(Float16::FromNumber(low[i]));
      vec[Wide::kLanes + i] = static_cast<int16_t>(Float16::FromNumber(high[i]));
    }
    return vec;
  }
#endif

  // The instructions keep a NaN's payload; the contract has the quiet NaN of its sign.
  static Vec QuietNan(Vec vec) {
    const Vec nan = (vec & S::SetInteger(INT16_MIN)) | S::SetInteger(0x7E00);
    return (vec & S::SetInteger(INT16_MAX)) > S::SetInteger(0x7C00) ? nan : vec;
  }
};

// What becomes of entries, a vector at a time. Vectors hold the elements' bits.
template <class T>
class Products {
 public:
  using Multiplier =
      std::conditional_t<std::is_same<T, BFloat16>::value, MultiplyBFloat16,
                         std::conditional_t<std::is_same<T, Float16>::value, MultiplyFloat16, Multiply<T>>>;
  using S = typename Multiplier::S;
  using Vec = typename S::Vec;
  using IntVec = typename S::IntVec;
  using Mask = typename S::Mask;
  using Number = typename T::Number;
  using Bits = typename T::Bits;

  Products(double separation, double suppression)
      : separation_(separation),
        suppression_(suppression),
        separation_vec_(Simd<Number>::Set(separation_.number)),
        suppression_vec_(Simd<Number>::Set(suppression_.number)),
        separation_keep_(S::SetInteger(static_cast<typename S::Integer>(separation_.keep))),
        suppression_keep_(S::SetInteger(static_cast<typename S::Integer>(suppression_.keep))) {}

  // Whether all that is not selected becomes +0 and what is selected is an ordinary product.
  bool MaskOnly() const { return suppression_.is_zero && !separation_.is_constant; }

  // Under MaskOnly.
  Vec Masked(Vec raw, Mask selected) const { return S::ZeroUnless(selected, Multiplier::By(raw, separation_vec_)); }
  // In any case.
  Vec Mixed(Vec raw, Mask selected) const {
    const IntVec keep = (IntVec)S::Blend(selected, (Vec)separation_keep_, (Vec)suppression_keep_);
    return Multiplier::By((Vec)((IntVec)raw & keep), selected, separation_vec_, suppression_vec_);
  }
  Vec Suppressed(Vec raw) const { return Multiplier::By((Vec)((IntVec)raw & suppression_keep_), suppression_vec_); }
  Bits Separated(Bits bits) const { return separation_ * bits; }

  template <bool kMaskOnly>
  Vec Product(Vec raw, Mask selected) const {
    return kMaskOnly ? Masked(raw, selected) : Mixed(raw, selected);
  }

 private:
  const Factor<T> separation_, suppression_;
  const typename Simd<Number>::Vec separation_vec_, suppression_vec_;
  const IntVec separation_keep_, suppression_keep_;
};

// ---- Finding the cut -------------------------------------------------------------------------------------

// Calls function(vec of scores) for all of v; the last, if not full, is padded.
template <class L, class Function>
inline void ForEachVec(const typename L::Element* v, int64_t n, typename L::Lane pad, Function&& function) {
  constexpr int kLanes = L::S::kLanes;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    function(L::Load(v + i));
    function(L::Load(v + i + kLanes));
    function(L::Load(v + i + 2 * kLanes));
    function(L::Load(v + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) function(L::Load(v + i));
  if (i < n) function(L::LoadFirst(v + i, static_cast<int>(n - i), pad));
}

template <class L>
inline int64_t CountAbove(const typename L::Element* v, int64_t n, typename L::Lane threshold) {
  using S = typename L::S;
  const auto threshold_vec = S::Set(threshold);
  typename S::Counter counter;
  ForEachVec<L>(v, n, kLowest<typename L::Lane>, [&](auto x) { counter.Add(S::Above(x, threshold_vec)); });
  return counter.Total();
}

template <class L>
inline int64_t CountEqual(const typename L::Element* v, int64_t n, typename L::Lane value) {
  using S = typename L::S;
  const auto value_vec = S::Set(value);
  // A pad that is not the value.
  const auto pad = value == kLowest<typename L::Lane> ? kHighest<typename L::Lane> : kLowest<typename L::Lane>;
  typename S::Counter counter;
  ForEachVec<L>(v, n, pad, [&](auto x) { counter.Add(S::Equal(x, value_vec)); });
  return counter.Total();
}

template <class L>
inline int64_t CountNan(const typename L::Element* v, int64_t n) {
  using S = typename L::S;
  typename S::Counter counter;
  ForEachVec<L>(v, n, kLowest<typename L::Lane>, [&](auto x) { counter.Add(S::Unordered(x, x)); });
  return counter.Total();
}

template <class Lane>
struct Range {
  Lane low, high;
};

// The smallest and greatest scores in [from, to], NaN aside. There is one.
template <class L>
inline Range<typename L::Lane> RangeWithin(const typename L::Element* v, int64_t n, typename L::Lane from,
                                           typename L::Lane to) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  const auto from_vec = S::Set(from), to_vec = S::Set(to);
  const auto lowest = S::Set(kLowest<Lane>), highest = S::Set(kHighest<Lane>);
  auto low = highest, high = lowest;
  ForEachVec<L>(v, n, kLowest<Lane>, [&](auto x) {
    low = S::Min(S::Blend(S::Above(from_vec, x), highest, x), low);
    high = S::Max(S::Blend(S::Above(x, to_vec), lowest, x), high);
  });
  return {S::ReduceMin(low), S::ReduceMax(high)};
}

// Roughly log2, exact at powers of two: the exponent, and the fraction as it stands.
inline float RoughLog2(float x) { return static_cast<float>(BitCast<int32_t>(x) - 0x3F800000) * 0x1p-23f; }

// The logarithm of the odds that one of n scores is among the greatest `count`. For what comes out of a network
// it runs nearly straight from the least score to the greatest, so pivots are interpolated in it.
inline float LogOdds(float count, float n) { return RoughLog2(count + 0.5f) - RoughLog2(n - count + 0.5f); }

// The cut of the k greatest of v, by bisection between the extremes. The first pivots are interpolated from the
// counts so far (the Illinois variant of regula falsi); for distinct scores that usually ends it, as soon as a
// pivot has k above it. Then the ends move to scores that occur, which ends it for ties, and what goes on halves
// the interval of order keys. That makes about five passes over v for distinct scores, ten for ties, and a few
// dozen at worst.
template <class L>
Cut<typename L::Lane> SelectByBisection(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  using Integer = typename S::Integer;
  using Numbers = typename L::Numbers;
  using Number = typename Numbers::Number;
  constexpr int kGuesses = 8;

  auto low_vec = S::Set(kHighest<Lane>), high_vec = S::Set(kLowest<Lane>);
  auto low_vec2 = low_vec, high_vec2 = high_vec;
  auto nans = S::Unordered(low_vec, low_vec);
  constexpr int kLanes = S::kLanes;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const auto x = L::Load(v + i), x2 = L::Load(v + i + kLanes);
    low_vec = S::Min(x, low_vec);
    low_vec2 = S::Min(x2, low_vec2);
    high_vec = S::Max(x, high_vec);
    high_vec2 = S::Max(x2, high_vec2);
    nans |= S::Unordered(x, x2);
  }
  for (; i < n; i += kLanes) {
    const int count = static_cast<int>(Smaller(kLanes, n - i));
    const auto x = count == kLanes ? L::Load(v + i) : L::LoadFirst(v + i, count, kHighest<Lane>);
    const auto x2 = count == kLanes ? x : L::LoadFirst(v + i, count, kLowest<Lane>);
    low_vec = S::Min(x, low_vec);
    high_vec = S::Max(x2, high_vec);
    nans |= S::Unordered(x, x2);
  }
  Lane low = S::ReduceMin(S::Min(low_vec2, low_vec)), high = S::ReduceMax(S::Max(high_vec2, high_vec));
  int64_t above_high = 0;
  if (S::BitsOf(nans) != 0) {
    above_high = CountNan<L>(v, n);
    if (k <= above_high) return {Lane{}, k, true};
  }

  const auto size = static_cast<float>(n);
  const float odds = LogOdds(static_cast<float>(k), size);
  float low_odds = LogOdds(size, size) - odds, high_odds = LogOdds(0, size) - odds;  // relative to those wanted
  Integer low_key = OrderKey(low), high_key = OrderKey(high);
  bool was_low = false, was_high = false;
  for (int step = 0; low_key < high_key; ++step) {
    low = LaneOfKey<Lane>(low_key);
    high = LaneOfKey<Lane>(high_key);
    if (step % (kGuesses + 1) == kGuesses) {
      const auto range = RangeWithin<L>(v, n, low, high);
      // Never outwards, where denormals, which compare as equal, have different keys.
      low_key = OrderKey(range.low) > low_key ? OrderKey(range.low) : low_key;
      high_key = OrderKey(range.high) < high_key ? OrderKey(range.high) : high_key;
      continue;
    }
    // The middle, without overflow.
    Integer pivot_key = static_cast<Integer>((low_key & high_key) + ((low_key ^ high_key) >> 1));
    if (step < kGuesses) {
      const Number low_number = Numbers::ToNumber(low), high_number = Numbers::ToNumber(high);
      const auto fraction = static_cast<Number>(high_odds / (high_odds - low_odds));
      const Number guess = high_number - (high_number - low_number) * fraction;
      // Infinite ends make no guess.
      if (guess >= low_number && guess < high_number) {
        const Integer guess_key = OrderKey(Numbers::ToLane(guess));
        pivot_key = guess_key >= low_key && guess_key < high_key ? guess_key : pivot_key;
      }
    }
    const Lane pivot = LaneOfKey<Lane>(pivot_key);
    const int64_t above = CountAbove<L>(v, n, pivot);
    if (above == k) return {pivot, 0};
    // Which way it goes is a coin's toss, so there should be no branch to predict here.
    const bool is_low = above > k;
    const float pivot_odds = LogOdds(static_cast<float>(above), size) - odds;
    // An end that stays twice in a row counts half.
    high_odds = is_low ? (was_low ? high_odds * 0.5f : high_odds) : pivot_odds;
    low_odds = is_low ? pivot_odds : (was_high ? low_odds * 0.5f : low_odds);
    low_key = is_low ? static_cast<Integer>(pivot_key + 1) : low_key;
    high_key = is_low ? high_key : pivot_key;
    above_high = is_low ? above_high : above;
    was_low = is_low;
    was_high = !is_low;
  }
  return {LaneOfKey<Lane>(high_key), k - above_high};
}

// Scores that the k-th greatest of a long row very probably lies between: above `low`, and not above `high`.
template <class L>
Range<typename L::Lane> SamplePivots(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  constexpr int kSample = 512;
  Lane sample[kSample];
  const int64_t stride = n / kSample;
  for (int64_t i = 0; i < kSample / kLanes; ++i) S::Store(sample + i * kLanes, L::Load(v + i * stride * kLanes));

  // The rank of the k-th in the sample, give or take three standard deviations.
  const float share = static_cast<float>(k) / static_cast<float>(n);
  const float deviation = 3 * __builtin_sqrtf(kSample * share * (1 - share)) + 1;
  const auto rank_high = static_cast<int64_t>(kSample * share - deviation);
  const auto rank_low = static_cast<int64_t>(kSample * share + deviation) + 1;
  Range<Lane> pivots{kLowest<Lane>, kHighest<Lane>};
  if (rank_high >= 1) {
    const auto cut = SelectByBisection<typename L::AsLanes>(sample, kSample, rank_high);
    if (!cut.is_nan) pivots.high = cut.threshold;
  }
  if (rank_low <= kSample) {
    const auto cut = SelectByBisection<typename L::AsLanes>(sample, kSample, rank_low);
    if (!cut.is_nan) pivots.low = cut.threshold;
  }
  return pivots;
}

struct Between {
  int64_t above;  // how many scores are above the upper pivot
  int64_t count;  // how many between the pivots
};

// Keeps the scores between the pivots in `between`, which has room for n lanes and a vector.
template <class L>
Between KeepBetween(const typename L::Element* v, int64_t n, Range<typename L::Lane> pivots,
                    typename L::Lane* between) {
  using S = typename L::S;
  const auto high_vec = S::Set(pivots.high), low_vec = S::Set(pivots.low);
  typename S::Counter above_high;
  int64_t count = 0;
  ForEachVec<L>(v, n, kLowest<typename L::Lane>, [&](auto x) {
    const auto above = S::Above(x, high_vec);
    above_high.Add(above);
    count += S::Compress(between + count, S::AndNot(S::Above(x, low_vec), above), x);
  });
  return {above_high.Total(), count};
}

// The cut of the k greatest of a long row: two pivots from a sample enclose it, and one pass keeps what lies
// between them. `between` is as above. Where the sample misleads, all of v is bisected.
template <class L>
Cut<typename L::Lane> SelectBySample(const typename L::Element* v, int64_t n, int64_t k, typename L::Lane* between) {
  const auto pivots = SamplePivots<L>(v, n, k);
  const Between kept = KeepBetween<L>(v, n, pivots, between);
  const int64_t rest = k - kept.above;
  if (0 < rest && rest <= kept.count) return SelectByBisection<typename L::AsLanes>(between, kept.count, rest);
  if (rest > kept.count && rest <= kept.count + CountEqual<L>(v, n, pivots.low)) return {pivots.low, rest - kept.count};
  return SelectByBisection<L>(v, n, k);
}

// ---- Writing what a cut selects --------------------------------------------------------------------------

// The lowest `count` set bits, or all if there are fewer.
inline uint64_t LowestBits(uint64_t bits, int64_t count) {
  if (__builtin_popcountll(bits) <= count) return bits;
  uint64_t rest = bits;
  for (; count > 0; --count) rest &= rest - 1;
  return bits ^ rest;
}

constexpr int kBlock = 64;  // entries of a row whose bits make one word
static_assert(Segments::kGranularity % kBlock == 0, "a segment has whole blocks");

inline void StoreBits(uint8_t* selected, uint64_t bits, int count) {
  // Little-endian, as all machines this runs on are.
  if (count == kBlock) {
    __builtin_memcpy(selected, &bits, 8);
  } else {
    __builtin_memcpy(selected, &bits, (count + 7) / 8);
  }
}
inline uint64_t LoadBits(const uint8_t* selected, int count) {
  uint64_t bits = 0;
  if (count == kBlock) {
    __builtin_memcpy(&bits, selected, 8);
  } else {
    __builtin_memcpy(&bits, selected, (count + 7) / 8);
  }
  return bits;
}

template <class T, Score kScore>
class Row {
 public:
  using L = Scored<T, kScore>;
  using S = typename L::S;
  using Vec = typename S::Vec;
  using Mask = typename S::Mask;
  using Lane = typename L::Lane;
  using Bits = typename T::Bits;
  using RowCut = Cut<Lane>;
  static constexpr int kLanes = S::kLanes;

  // From `quota` on it counts down, across the calls.
  template <bool kTies>
  struct Selector {
    explicit Selector(const RowCut& cut) : threshold(S::Set(cut.threshold)), quota(cut.quota), is_nan(cut.is_nan) {}
    Mask operator()(Vec score, Mask valid) {
      if constexpr (!kTies) return S::Above(score, threshold);
      const Mask above = is_nan ? Mask{} : S::Above(score, threshold);
      if (quota == 0) return above;
      const uint64_t equal = S::BitsOf(S::And(valid, is_nan ? S::Unordered(score, score) : S::Equal(score, threshold)));
      const uint64_t taken = LowestBits(equal, quota);
      quota -= __builtin_popcountll(taken);
      return S::MaskOf(S::BitsOf(above) | taken);
    }
    Vec threshold;
    int64_t quota;
    bool is_nan;
  };

  template <bool kMaskOnly, bool kTies>
  static void Write(const Bits* x, Bits* y, uint8_t* selected, int64_t n, const RowCut& cut,
                    const Products<T>& products) {
    Selector<kTies> select(cut);
    const Mask all = S::Equal(Vec{}, Vec{});
    int64_t i = 0;
    for (; i + kBlock <= n; i += kBlock) {
      uint64_t bits = 0;
#pragma GCC unroll 8
      for (int j = 0; j < kBlock; j += kLanes) {
        const Vec raw = S::Load(x + i + j);
        const Mask mask = select(L::Of(raw), all);
        bits |= S::BitsOf(mask) << j;
        S::Store(y + i + j, products.template Product<kMaskOnly>(raw, mask));
      }
      StoreBits(selected + i / 8, bits, kBlock);
    }
    if (i == n) return;
    uint64_t bits = 0;
    for (int j = 0; i + j < n; j += kLanes) {
      const int count = static_cast<int>(Smaller(kLanes, n - i - j));
      const bool is_full = count == kLanes;
      const Vec raw = is_full ? S::Load(x + i + j) : S::LoadFirst(x + i + j, count);
      const Mask valid = is_full ? all : S::FirstLanes(count);
      const Mask mask = S::And(valid, select(L::Of(raw), valid));
      bits |= S::BitsOf(mask) << j;
      const Vec product = products.template Product<kMaskOnly>(raw, mask);
      is_full ? S::Store(y + i + j, product) : S::StoreFirst(y + i + j, product, count);
    }
    StoreBits(selected + i / 8, bits, static_cast<int>(n - i));
  }

  static void Write(const Bits* x, Bits* y, uint8_t* selected, int64_t n, const RowCut& cut,
                    const Products<T>& products) {
    const bool ties = cut.quota > 0 || cut.is_nan;
    const auto write = products.MaskOnly() ? (ties ? Write<true, true> : Write<true, false>)
                                           : (ties ? Write<false, true> : Write<false, false>);
    write(x, y, selected, n, cut, products);
  }

  // ---- Long rows with a small k ----

  // A score that at least k scores of the row very probably exceed, and not many more: one of the greatest of a
  // sample. The sample falls into groups, of lanes that lie far apart, and of each group the greatest is kept.
  // If `is_certain`, a lower score, which at least k scores surely reach: the k-th of the sample.
  static Lane LowerBound(const Bits* x, int64_t n, int64_t k, bool is_certain, Lane* greatest) {
    constexpr int kRun = 4;  // vectors that lie together
    // A large sample takes long, a small one leaves many candidates; this share of the row balances both. The
    // constant was chosen by kernels_benchmark.
    const auto row_size = static_cast<float>(n), row_k = static_cast<float>(k);
    const float share = Least(1.0f, __builtin_cbrtf(kSampleCost * row_k / (row_size * row_size)));
    // How many of the k greatest the sample has, and three standard deviations more.
    const float expected = share * row_k;
    const float probable_rank = Least(row_k, expected + 3 * __builtin_sqrtf(expected) + 1);
    const int64_t rank = is_certain ? k : static_cast<int64_t>(probable_rank);
    // With twice as many groups as that, few of the greatest share one.
    const int64_t runs = (2 * rank + kRun * kLanes - 1) / (kRun * kLanes);
    const int64_t all_runs = n / (kRun * kLanes);
    const int64_t depth = Greater(1, static_cast<int64_t>(share * static_cast<float>(all_runs)) / runs);
    const int64_t stride = all_runs / (depth * runs) * kRun * kLanes;
    for (int64_t run = 0; run < runs; ++run) {
      Vec max = S::Set(kLowest<Lane>), max2 = max, max3 = max, max4 = max;
      const Bits* from = x + run * stride;
      for (int64_t d = 0; d < depth; ++d, from += runs * stride) {
        max = S::Max(L::Load(from), max);
        max2 = S::Max(L::Load(from + kLanes), max2);
        max3 = S::Max(L::Load(from + 2 * kLanes), max3);
        max4 = S::Max(L::Load(from + 3 * kLanes), max4);
      }
      Lane* to = greatest + run * kRun * kLanes;
      S::Store(to, max);
      S::Store(to + kLanes, max2);
      S::Store(to + 2 * kLanes, max3);
      S::Store(to + 3 * kLanes, max4);
    }
    return SelectByBisection<typename L::AsLanes>(greatest, runs * kRun * kLanes, rank).threshold;
  }

  // Marks what scores above the threshold in `selected`, lists the blocks where anything does, and returns how
  // many do. Writes y, unless kWrite is false, as if nothing were selected.
  template <bool kMaskOnly, bool kWrite>
  static int64_t Mark(const Bits* x, Bits* y, uint8_t* selected, int64_t n, Lane threshold, const Products<T>& products,
                      int32_t* blocks) {
    const Vec threshold_vec = S::Set(threshold);
    int64_t count = 0;
    int64_t i = 0;
    for (; i + kBlock <= n; i += kBlock) {
      uint64_t bits = 0;
#pragma GCC unroll 8
      for (int j = 0; j < kBlock; j += kLanes) {
        const Vec raw = S::Load(x + i + j);
        bits |= S::BitsOf(S::Above(L::Of(raw), threshold_vec)) << j;
        if (kWrite) S::Store(y + i + j, kMaskOnly ? Vec{} : products.Suppressed(raw));
      }
      StoreBits(selected + i / 8, bits, kBlock);
      blocks[count] = static_cast<int32_t>(i / kBlock);
      count += bits != 0;
    }
    if (i == n) return count;
    uint64_t bits = 0;
    for (int j = 0; i + j < n; j += kLanes) {
      const int lanes = static_cast<int>(Smaller(kLanes, n - i - j));
      const Vec raw = lanes < kLanes ? S::LoadFirst(x + i + j, lanes) : S::Load(x + i + j);
      const Mask above = S::Above(L::Of(raw), threshold_vec);
      bits |= S::BitsOf(lanes < kLanes ? S::And(S::FirstLanes(lanes), above) : above) << j;
      if (kWrite) {
        const Vec product = kMaskOnly ? Vec{} : products.Suppressed(raw);
        lanes < kLanes ? S::StoreFirst(y + i + j, product, lanes) : S::Store(y + i + j, product);
      }
    }
    StoreBits(selected + i / 8, bits, static_cast<int>(n - i));
    blocks[count] = static_cast<int32_t>(i / kBlock);
    return count + (bits != 0);
  }
};

// What a long row is searched with: see SeparateByStream.
template <class T, Score kScore>
struct Candidates {
  using Lane = typename Scored<T, kScore>::Lane;
  using Bits = typename T::Bits;

  // Of an eighth of a row, all of this fits into a row of scratch, be it of 2-byte elements.
  static constexpr int64_t MaxCount(int64_t n) { return n / 8; }
  // Without the list of blocks.
  static constexpr int64_t Bytes(int64_t max_count) {
    return (max_count + kBlock) * static_cast<int64_t>(sizeof(Lane) + sizeof(Bits) + sizeof(int32_t));
  }

  Candidates(void* memory, int64_t max_count) : max_count(max_count) {
    const int64_t room = max_count + kBlock;
    scores = static_cast<Lane*>(memory);
    bits = reinterpret_cast<Bits*>(scores + room);
    indices = reinterpret_cast<int32_t*>(bits + room);
    blocks = indices + room;
  }

  void Add(int64_t index, Bits element) {
    indices[count] = static_cast<int32_t>(index);
    bits[count++] = element;
  }

  // Takes those that the bitmask has in the first block_count of the listed blocks. False if they are too many.
  bool Extract(const Bits* x, const uint8_t* selected, int64_t n, int64_t block_count) {
    for (int64_t b = 0; b < block_count; ++b) {
      const int64_t i = int64_t{blocks[b]} * kBlock;
      uint64_t word = LoadBits(selected + i / 8, static_cast<int>(Smaller(kBlock, n - i)));
      const int found = __builtin_popcountll(word);
      if (count + found > max_count) return false;
      // Most blocks have few. Four are always written, and the next block overwrites what wasn't there, so that
      // there is less to predict.
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        indices[count + j] = static_cast<int32_t>(i + __builtin_ctzll(word | uint64_t{1} << 63));
        word &= word - 1;
      }
      for (int j = 4; j < found; ++j) {
        indices[count + j] = static_cast<int32_t>(i + __builtin_ctzll(word));
        word &= word - 1;
      }
      count += found;
    }
    for (int64_t i = 0; i < count; ++i) bits[i] = x[indices[i]];
    return true;
  }

  int64_t max_count;
  int64_t count = 0;
  Lane* scores;
  Bits* bits;
  int32_t* indices;
  int32_t* blocks;
};

// Fills y as if nothing were selected.
template <class T>
void Suppress(const typename T::Bits* x, typename T::Bits* y, int64_t n, const Products<T>& products) {
  using S = typename Products<T>::S;
  int64_t i = 0;
  if (products.MaskOnly()) {
    std::memset(y, 0, n * sizeof(*y));
    return;
  }
  for (; i + S::kLanes <= n; i += S::kLanes) S::Store(y + i, products.Suppressed(S::Load(x + i)));
  const int rest = static_cast<int>(n - i);
  if (rest > 0) S::StoreFirst(y + i, products.Suppressed(S::LoadFirst(x + i, rest)), rest);
}

// k = 1: the first entry of the greatest score.
template <class L>
int64_t FindGreatest(const typename L::Element* x, int64_t n) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  // What has to be searched again for the entry is short.
  constexpr int64_t kChunk = 1024;
  const auto lowest = S::Set(kLowest<Lane>);
  Lane greatest = kLowest<Lane>;
  int64_t greatest_begin = 0;
  bool is_nan = false;
  for (int64_t begin = 0; begin < n && !is_nan; begin += kChunk) {
    auto max = lowest, max2 = lowest, max3 = lowest, max4 = lowest;
    auto nans = S::Unordered(lowest, lowest);
    const int64_t end = Smaller(begin + kChunk, n);
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      const auto a = L::Load(x + i), b = L::Load(x + i + kLanes);
      const auto c = L::Load(x + i + 2 * kLanes), d = L::Load(x + i + 3 * kLanes);
      max = S::Max(a, max);
      max2 = S::Max(b, max2);
      max3 = S::Max(c, max3);
      max4 = S::Max(d, max4);
      nans |= S::Unordered(a, b);
      nans |= S::Unordered(c, d);
    }
    for (; i < end; i += kLanes) {
      const auto a = i + kLanes <= end ? L::Load(x + i) : L::LoadFirst(x + i, static_cast<int>(end - i), kLowest<Lane>);
      max = S::Max(a, max);
      nans |= S::Unordered(a, a);
    }
    const Lane chunk_greatest = S::ReduceMax(S::Max(S::Max(max, max2), S::Max(max3, max4)));
    is_nan = S::BitsOf(nans) != 0;
    if (is_nan || chunk_greatest > greatest) {
      greatest = chunk_greatest;
      greatest_begin = begin;
    }
  }
  const auto greatest_vec = S::Set(greatest);
  for (int64_t i = greatest_begin;; i += kLanes) {
    const auto a = i + kLanes <= n ? L::Load(x + i) : L::LoadFirst(x + i, static_cast<int>(n - i), kLowest<Lane>);
    const uint64_t bits = S::BitsOf(is_nan ? S::Unordered(a, a) : S::Equal(a, greatest_vec));
    if (bits != 0) return i + __builtin_ctzll(bits);
  }
}

template <class T, Score kScore>
void SeparateGreatest(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                      const Products<T>& products) {
  const int64_t index = FindGreatest<Scored<T, kScore>>(x, n);
  const auto bits = x[index];
  std::memset(selected, 0, BitmaskBytes(n));
  selected[index / 8] = static_cast<uint8_t>(1 << index % 8);
  Suppress<T>(x, y, n, products);
  y[index] = products.Separated(bits);
}

// Marks the candidates of a row, or of a part of one, and lists them. Writes y as if nothing were selected, unless
// y is x: then the bitmask and the candidates' own bits come to hold what is needed of x.
template <class T, Score kScore>
bool FindCandidates(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                    typename Row<T, kScore>::Lane bound, const Products<T>& products,
                    Candidates<T, kScore>& candidates) {
  using R = Row<T, kScore>;
  const auto mark = x == y ? R::template Mark<true, false>
                           : (products.MaskOnly() ? R::template Mark<true, true> : R::template Mark<false, true>);
  const int64_t blocks = mark(x, y, selected, n, bound, products, candidates.blocks);
  return candidates.Extract(x, selected, n, blocks);
}

// Leaves those candidates that are selected, and unmarks the others. Candidates score above `bound`; if they are
// fewer than k, it is ties as a rule, and the bound itself is the threshold. Returns false where it is not.
template <class T, Score kScore>
bool ChooseAmongCandidates(const typename T::Bits* x, uint8_t* selected, int64_t n, int64_t k,
                           typename Row<T, kScore>::Lane bound, Candidates<T, kScore>& candidates) {
  using L = Scored<T, kScore>;
  using S = typename L::S;
  if (candidates.count > k) {
    int64_t i = 0;
    for (; i < candidates.count; i += S::kLanes) S::Store(candidates.scores + i, L::Load(candidates.bits + i));
    auto cut = SelectByBisection<typename L::AsLanes>(candidates.scores, candidates.count, k);
    int64_t kept = 0;
    for (i = 0; i < candidates.count; ++i) {
      const int64_t index = candidates.indices[i];
      const auto score = candidates.scores[i];
      const bool takes_quota = cut.quota > 0 && cut.IsEqual(score);
      cut.quota -= takes_quota;
      // Without a branch, as it could not be predicted.
      const bool keep = takes_quota | cut.IsAbove(score);
      candidates.bits[kept] = candidates.bits[i];
      candidates.indices[kept] = static_cast<int32_t>(index);
      kept += keep;
      selected[index / 8] &= static_cast<uint8_t>(~(!keep << index % 8));
    }
    candidates.count = kept;
    return true;
  }
  // If enough scores equal the bound, the first of them make up for what is missing.
  const auto bound_vec = S::Set(bound);
  for (int64_t i = 0; candidates.count < k; i += S::kLanes) {
    if (i >= n) return false;
    const int lanes = static_cast<int>(Smaller(S::kLanes, n - i));
    const auto score = lanes == S::kLanes ? L::Load(x + i) : L::LoadFirst(x + i, lanes, kHighest<typename L::Lane>);
    uint64_t equal = S::BitsOf(S::Equal(score, bound_vec));
    for (; equal != 0 && candidates.count < k; equal &= equal - 1) {
      const int64_t index = i + __builtin_ctzll(equal);
      if (index >= n) return false;
      candidates.Add(index, x[index]);
      selected[index / 8] |= static_cast<uint8_t>(1 << index % 8);
    }
  }
  return true;
}

template <class T, Score kScore>
void WriteCandidates(const Candidates<T, kScore>& candidates, typename T::Bits* y, const Products<T>& products) {
  for (int64_t i = 0; i < candidates.count; ++i) {
    y[candidates.indices[i]] = products.Separated(candidates.bits[i]);
  }
}

// One pass over the row marks in the bitmask the candidates, which score above a bound, and writes y as if nothing
// were selected. What is then left to do concerns the candidates alone. Returns false where the bound was too
// high, as may happen in sorted rows unless it is certain, or so low that there are too many candidates; x is
// then as it was.
template <class T, Score kScore>
bool SeparateByStream(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n, int64_t k,
                      bool is_certain, const Products<T>& products, void* scratch) {
  using R = Row<T, kScore>;
  using Lane = typename R::Lane;
  const Lane bound = R::LowerBound(x, n, k, is_certain, static_cast<Lane*>(scratch));
  Candidates<T, kScore> candidates(scratch, Candidates<T, kScore>::MaxCount(n));
  if (!FindCandidates(x, y, selected, n, bound, products, candidates) ||
      !ChooseAmongCandidates(x, selected, n, k, bound, candidates)) {
    return false;
  }
  if (x == y) Suppress<T>(x, y, n, products);
  WriteCandidates(candidates, y, products);
  return true;
}

// ---- Short rows ------------------------------------------------------------------------------------------

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
          new_low = (key >= low) & (key < new_low) ? key : new_low;
          new_high = (key <= high) & (key > new_high) ? key : new_high;
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
        pivot = is_inside & (guess_key < high) & (guess_key >= low) ? guess_key : pivot;
      }
      IntVec above{};
      for (int j = 0; j < n; ++j) above = Wide::AddIfGreater(above, columns[j], pivot, one);
      const IntVec is_found = is_open & (above == wanted);
      const IntVec goes_up = is_open & (above > wanted), goes_down = is_open & (above < wanted);
      const Counts up = CountsOf(goes_up), down = CountsOf(goes_down);
      const Floats pivot_odds = LogOddsOf(CountsOf(above), size) - odds;
      high_odds = down ? pivot_odds : (up & was_low ? high_odds * 0.5f : high_odds);
      low_odds = up ? pivot_odds : (down & was_high ? low_odds * 0.5f : low_odds);
      low = goes_up ? Wide::AddWrapped(pivot, one) : (is_found ? pivot : low);
      high = goes_down | is_found ? pivot : high;
      above_high = goes_down | is_found ? above : above_high;
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

// ---- Rows ------------------------------------------------------------------------------------------------

// How a row is selected from.
enum class Path {
  kAllOrNone,  // k = 0 or k = n
  kShort,      // short rows: a vector's lanes are rows
  kGreatest,   // k = 1
  kStream,     // a long row of which little is selected: candidates above a bound, one pass that writes as well
  kSample,     // any other long row: pivots from a sample, then bisection of what lies between them
  kBisection,  // the rest: bisection of the row, which is in the first-level cache
};

template <class Short>
Path ChoosePath(int64_t rows, int64_t n, int64_t k) {
  if (k == 0 || k == n) return Path::kAllOrNone;
  if (n <= Short::kMaxRanked) return Path::kShort;
  if (k == 1) return Path::kGreatest;
  // It takes as long for one row as for a vector of rows.
  if (n <= Short::kMaxEntries && rows > Short::kRows / 2) return Path::kShort;
  if (n >= 2048 && k <= n / 256) return Path::kStream;
  if (n >= 4096) return Path::kSample;
  return Path::kBisection;
}

template <class T, Score kScore>
void SeparateRows(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch) {
  using R = Row<T, kScore>;
  using L = typename R::L;
  using Lane = typename R::Lane;
  using Bits = typename T::Bits;
  const Products<T> products(args.separation, args.suppression);
  using Short = ShortRows<T, kScore>;
  const Path path = ChoosePath<Short>(end - begin, args.n, args.k);
  if (path == Path::kShort) {
    Short::Separate(args, begin, end, products);
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
      case Path::kShort:
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
    R::Write(x, y, selected, args.n, cut, products);
  }
}

// ---- Scaling by a bitmask --------------------------------------------------------------------------------

template <class T, bool kMaskOnly>
void ScaleRow(const typename T::Bits* v, typename T::Bits* out, const uint8_t* selected, int64_t n,
              const Products<T>& products) {
  using S = typename Products<T>::S;
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    const uint64_t bits = LoadBits(selected + i / 8, kBlock);
    if (kMaskOnly && bits == 0) {
      // v is not read at all where nothing is selected.
#pragma GCC unroll 8
      for (int j = 0; j < kBlock; j += kLanes) S::Store(out + i + j, Vec{});
      continue;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kBlock; j += kLanes) {
      S::Store(out + i + j, products.template Product<kMaskOnly>(S::Load(v + i + j), S::MaskOf(bits >> j)));
    }
  }
  if (i == n) return;
  const uint64_t bits = LoadBits(selected + i / 8, static_cast<int>(n - i));
  for (int j = 0; i + j < n; j += kLanes) {
    const int count = static_cast<int>(Smaller(kLanes, n - i - j));
    const Vec raw = count == kLanes ? S::Load(v + i + j) : S::LoadFirst(v + i + j, count);
    const Vec product = products.template Product<kMaskOnly>(raw, S::MaskOf(bits >> j));
    count == kLanes ? S::Store(out + i + j, product) : S::StoreFirst(out + i + j, product, count);
  }
}

// Rows shorter than a block, written as one long row.
template <class T, bool kMaskOnly>
void ScaleShortRows(const ScaleSelectedArgs& args, int64_t begin, int64_t end, const Products<T>& products) {
  const auto n = static_cast<int>(args.n);
  const auto bytes = static_cast<int>(BitmaskBytes(n));
  PackedWriter<T, kMaskOnly> writer(static_cast<const typename T::Bits*>(args.v) + begin * n,
                                    static_cast<typename T::Bits*>(args.out) + begin * n, products);
  const uint64_t valid = (uint64_t{1} << n) - 1;
  const uint8_t* selected = args.selected + begin * bytes;
  const uint8_t* const selected_end = args.selected + end * bytes;
  // A whole word may be read where it is inside the bitmask.
  for (; selected + 8 <= selected_end; selected += bytes) writer.Add(LoadBits(selected, kBlock) & valid, n);
  for (; selected < selected_end; selected += bytes) writer.Add(LoadBits(selected, n), n);
  writer.Finish();
}

template <class T>
void ScaleRows(const ScaleSelectedArgs& args, int64_t begin, int64_t end) {
  const Products<T> products(args.separation, args.suppression);
  if (args.n < kBlock) {
    const auto scale = products.MaskOnly() ? ScaleShortRows<T, true> : ScaleShortRows<T, false>;
    scale(args, begin, end, products);
    return;
  }
  const auto scale = products.MaskOnly() ? ScaleRow<T, true> : ScaleRow<T, false>;
  for (int64_t row = begin; row < end; ++row) {
    scale(static_cast<const typename T::Bits*>(args.v) + row * args.n,
          static_cast<typename T::Bits*>(args.out) + row * args.n, args.selected + row * BitmaskBytes(args.n), args.n,
          products);
  }
}

// ---- One long row, shared by several threads --------------------------------------------------------------

// The paths for long rows, where what goes over the row is done segment by segment and the rest on this thread.
template <class T, Score kScore>
class SplitRow {
 public:
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;
  using Bits = typename T::Bits;
  using R = Row<T, kScore>;
  using RowCandidates = Candidates<T, kScore>;

  // `scratch` has ScratchBytes and, for each segment, kScratchSlack.
  SplitRow(const SeparateArgs& args, int64_t row, const Segments& segments, void* scratch)
      : x_(static_cast<const Bits*>(args.x) + row * args.n),
        y_(static_cast<Bits*>(args.y) + row * args.n),
        selected_(args.selected + row * BitmaskBytes(args.n)),
        n_(args.n),
        k_(args.k),
        products_(args.separation, args.suppression),
        segments_(segments),
        scratch_(static_cast<char*>(scratch)) {}

  void Separate() {
    if (k_ == 0 || k_ == n_) {
      Write(k_ == 0 ? Cut<Lane>{Lane{}, 0, true} : Cut<Lane>{kLowest<Lane>, n_});
      return;
    }
    if (k_ <= n_ / 256 && (Stream(false) || Stream(true))) return;
    Write(Select());
  }

 private:
  // Calls function(segment, begin, size) for all segments, perhaps at the same time.
  template <class Function>
  void ForEachSegment(Function function) const {
    struct Context {
      const SplitRow* row;
      Function* function;
    } context{this, &function};
    segments_.run(
        segments_.pool,
        [](void* pointer, int64_t segment) {
          const auto& [row, function] = *static_cast<Context*>(pointer);
          const int64_t begin = segment * row->segments_.length;
          (*function)(segment, begin, Smaller(row->segments_.length, row->n_ - begin));
        },
        &context);
  }
  void* ScratchOf(int64_t segment) const {
    return scratch_ + segment * (segments_.length * static_cast<int64_t>(sizeof(Bits)) + kScratchSlack);
  }

  bool Stream(bool is_certain) {
    const Lane bound = R::LowerBound(x_, n_, k_, is_certain, reinterpret_cast<Lane*>(scratch_));
    int64_t counts[Segments::kMaxCount];  // -1: too many
    ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
      RowCandidates candidates(ScratchOf(segment), RowCandidates::MaxCount(size));
      const bool fits =
          FindCandidates(x_ + begin, y_ + begin, selected_ + begin / 8, size, bound, products_, candidates);
      counts[segment] = fits ? candidates.count : -1;
    });
    int64_t total = 0;
    for (int64_t segment = 0; segment < segments_.count; ++segment) {
      if (counts[segment] < 0) return false;
      total += counts[segment];
    }
    const int64_t max_count = Greater(total, k_);
    void* const memory = __builtin_malloc(RowCandidates::Bytes(max_count));
    if (memory == nullptr) return false;
    RowCandidates candidates(memory, max_count);
    for (int64_t segment = 0; segment < segments_.count; ++segment) {
      const int64_t begin = segment * segments_.length;
      const RowCandidates part(ScratchOf(segment), RowCandidates::MaxCount(Smaller(segments_.length, n_ - begin)));
      for (int64_t i = 0; i < counts[segment]; ++i) candidates.Add(begin + part.indices[i], part.bits[i]);
    }
    const bool done = ChooseAmongCandidates(x_, selected_, n_, k_, bound, candidates);
    if (done) {
      if (x_ == y_) {
        ForEachSegment(
            [&](int64_t, int64_t begin, int64_t size) { Suppress<T>(x_ + begin, y_ + begin, size, products_); });
      }
      WriteCandidates(candidates, y_, products_);
    }
    __builtin_free(memory);
    return done;
  }

  // SelectBySample.
  Cut<Lane> Select() {
    const auto pivots = SamplePivots<L>(x_, n_, k_);
    Between parts[Segments::kMaxCount];
    ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
      parts[segment] = KeepBetween<L>(x_ + begin, size, pivots, static_cast<Lane*>(ScratchOf(segment)));
    });
    Between kept{0, 0};
    Lane* const between = reinterpret_cast<Lane*>(scratch_);
    for (int64_t segment = 0; segment < segments_.count; ++segment) {
      std::memmove(between + kept.count, ScratchOf(segment), parts[segment].count * sizeof(Lane));
      kept.above += parts[segment].above;
      kept.count += parts[segment].count;
    }
    const int64_t rest = k_ - kept.above;
    if (0 < rest && rest <= kept.count) return SelectByBisection<typename L::AsLanes>(between, kept.count, rest);
    if (rest > kept.count) {
      const int64_t equal = CountEqual<L>(x_, n_, pivots.low);
      if (rest <= kept.count + equal) return {pivots.low, rest - kept.count};
    }
    return SelectByBisection<L>(x_, n_, k_);
  }

  void Write(const Cut<Lane>& cut) {
    // Which of those that equal the threshold are the first ones depends on all segments before.
    int64_t quotas[Segments::kMaxCount] = {};
    if (cut.quota > 0) {
      ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
        quotas[segment] = cut.is_nan ? CountNan<L>(x_ + begin, size) : CountEqual<L>(x_ + begin, size, cut.threshold);
      });
      int64_t rest = cut.quota;
      for (int64_t segment = 0; segment < segments_.count; ++segment) {
        quotas[segment] = Smaller(quotas[segment], rest);
        rest -= quotas[segment];
      }
    }
    ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
      const Cut<Lane> part{cut.threshold, quotas[segment], cut.is_nan};
      R::Write(x_ + begin, y_ + begin, selected_ + begin / 8, size, part, products_);
    });
  }

  const Bits* const x_;
  Bits* const y_;
  uint8_t* const selected_;
  const int64_t n_, k_;
  const Products<T> products_;
  const Segments& segments_;
  char* const scratch_;
};

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

#endif  // SEPARATIONFACTOR_CORE_KERNELS_INL_H_
