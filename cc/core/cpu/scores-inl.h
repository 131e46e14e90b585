// The scores of a row as vectors, and their order keys.

#ifndef SEPARATIONFACTOR_CORE_CPU_SCORES_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SCORES_INL_H_

#include <cstdint>
#include <type_traits>

#include "core/cpu/simd-inl.h"
#include "core/separate.h"
#include "core/types.h"

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

// Approximate conversions between lanes and the numbers in which pivots are interpolated.
template <class Lane>
struct SameNumbers {
  using Number = Lane;
  static Number ToNumber(Lane lane) { return lane; }
  static Lane ToLane(Number number) { return number; }
};

// For the order keys of a half type. The bits of a float16, shifted to float32, represent the number times 2^-112,
// because the exponents have different biases.
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

// Scores that are stored as lanes.
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

// Converts the elements of a row to lanes. float32 and float64 are compared as they are: with denormals-are-zero the
// floating-point comparisons give the order of the contract, except for NaN. The half types become order keys.
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
  // Loads the first `count` lanes and sets the others to `pad`.
  static Vec LoadFirst(const Element* x, int count, Lane pad) {
    return S::Blend(S::FirstLanes(count), Of(S::LoadFirst(x, count)), S::Set(pad));
  }
};

// Maps a lane other than NaN to an integer in the same order. The integers have no gaps, so bisection over them ends.
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

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SCORES_INL_H_
