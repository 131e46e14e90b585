// The traits of each dtype: conversions between bits and numbers, and the order of scores.
//
// The namespace is unnamed because files compiled for different instruction sets include this header: see
// cpu/simd-inl.h.

#ifndef SEPARATIONFACTOR_CORE_TYPES_H_
#define SEPARATIONFACTOR_CORE_TYPES_H_

#include <cstdint>

#include "core/separate.h"

namespace separationfactor {
namespace {

template <class To, class From>
SEPARATIONFACTOR_HOST_DEVICE inline To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

constexpr int ElementBytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

inline const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "";
}

// Each traits class has
//   kDType              the dtype
//   Bits                the unsigned integer of the element's size, which holds an element's bits
//   Number              the type in which products are computed
//   kExponent           the bits of the exponent
//   kDenormalsAreZero   whether the score of a denormal is zero
//   ToNumber            converts bits to a number
//   FromNumber          rounds a number to bits, to nearest even

struct Float32 {
  static constexpr DType kDType = DType::kFloat32;
  using Bits = uint32_t;
  using Number = float;
  static constexpr Bits kExponent = 0x7F800000u;
  static constexpr bool kDenormalsAreZero = true;
  SEPARATIONFACTOR_HOST_DEVICE static Number ToNumber(Bits bits) { return BitCast<float>(bits); }
  SEPARATIONFACTOR_HOST_DEVICE static Bits FromNumber(Number number) { return BitCast<Bits>(number); }
};

struct Float64 {
  static constexpr DType kDType = DType::kFloat64;
  using Bits = uint64_t;
  using Number = double;
  static constexpr Bits kExponent = 0x7FF0000000000000u;
  static constexpr bool kDenormalsAreZero = true;
  SEPARATIONFACTOR_HOST_DEVICE static Number ToNumber(Bits bits) { return BitCast<double>(bits); }
  SEPARATIONFACTOR_HOST_DEVICE static Bits FromNumber(Number number) { return BitCast<Bits>(number); }
};

struct BFloat16 {
  static constexpr DType kDType = DType::kBFloat16;
  using Bits = uint16_t;
  using Number = float;
  static constexpr Bits kExponent = 0x7F80u;
  static constexpr bool kDenormalsAreZero = true;
  SEPARATIONFACTOR_HOST_DEVICE static Number ToNumber(Bits bits) {
    return BitCast<float>(static_cast<uint32_t>(bits) << 16);
  }
  SEPARATIONFACTOR_HOST_DEVICE static Bits FromNumber(Number number) {
    const uint32_t bits = BitCast<uint32_t>(number);
    // A NaN becomes the quiet NaN of its sign, because rounding could turn its payload into infinity.
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<Bits>((bits >> 16 & 0x8000u) | 0x7FC0u);
    // Rounds to nearest, ties to even: adds half a unit in the last place, minus one if the truncated result is even.
    return static_cast<Bits>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
  }
};

struct Float16 {
  static constexpr DType kDType = DType::kFloat16;
  using Bits = uint16_t;
  using Number = float;
  static constexpr Bits kExponent = 0x7C00u;
  static constexpr bool kDenormalsAreZero = false;
  SEPARATIONFACTOR_HOST_DEVICE static Number ToNumber(Bits bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t exponent = bits >> 10 & 0x1Fu;
    const uint32_t fraction = bits & 0x3FFu;
    if (exponent == 0x1F) return BitCast<float>(sign | 0x7F800000u | fraction << 13);
    if (exponent != 0) return BitCast<float>(sign | (exponent + 112) << 23 | fraction << 13);
    // A denormal is a multiple of 2^-24, which is a normal number in float32.
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return BitCast<float>(sign | BitCast<uint32_t>(magnitude));
  }
  SEPARATIONFACTOR_HOST_DEVICE static Bits FromNumber(Number number) {
    const uint32_t bits = BitCast<uint32_t>(number);
    const Bits sign = static_cast<Bits>(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return sign | 0x7E00u;   // NaN: the quiet NaN of its sign
    if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // 65520 and more round to infinity
    if (magnitude < 0x38800000u) {
      // Below 2^-14 the result is denormal, a multiple of 2^-24. The last bit of 0.5 is 2^-24, so adding 0.5 rounds the
      // magnitude to such a multiple.
      const float aligned = BitCast<float>(magnitude) + 0.5f;
      return static_cast<Bits>(sign | (BitCast<uint32_t>(aligned) - 0x3F000000u));
    }
    // Changes the exponent's bias from 127 to 15 and rounds off 13 bits, to nearest, ties to even.
    const uint32_t rounded = magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<Bits>(sign | rounded >> 13);
  }
};

// Returns an unsigned integer in the order of the scores (separate.h): a greater score has a greater key, and equal
// scores have equal keys.
template <class T, Score kScore>
SEPARATIONFACTOR_HOST_DEVICE inline typename T::Bits Key(typename T::Bits bits) {
  using Bits = typename T::Bits;
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const Bits magnitude = static_cast<Bits>(bits & ~kSign);
  if (magnitude > T::kExponent) return static_cast<Bits>(~Bits{0});
  if (T::kDenormalsAreZero ? (bits & T::kExponent) == 0 : magnitude == 0) bits = 0;
  if (kScore == Score::kMagnitude) return static_cast<Bits>(bits & ~kSign);
  return static_cast<Bits>((bits & kSign) != 0 ? ~bits : bits | kSign);
}

// Calls function(traits) with the traits of a dtype.
template <class Function>
inline void WithDType(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat32:
      return function(Float32{});
    case DType::kFloat64:
      return function(Float64{});
    case DType::kBFloat16:
      return function(BFloat16{});
    case DType::kFloat16:
      return function(Float16{});
  }
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_TYPES_H_
