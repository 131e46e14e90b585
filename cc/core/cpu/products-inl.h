// Products of entries and factors as vectors. They have the same bits as the scalar code of types.h.

#ifndef SEPARATIONFACTOR_CORE_CPU_PRODUCTS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_PRODUCTS_INL_H_

#include <cstdint>
#include <type_traits>

#include "core/cpu/simd-inl.h"
#include "core/types.h"

namespace separationfactor {
namespace {

// A factor in the form that the kernels use. A factor that is zero, denormal or NaN has the same product for every
// entry, so the entry is replaced with zero before it is multiplied. Then a factor of zero gives +0 for infinities and
// NaN, and the bits of a NaN product do not depend on the order of operands. A denormal factor counts as zero in every
// floating-point mode.
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

// bfloat16, which is the upper half of a float32.
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
  // 32-bit lanes of the lower or upper half of each 16 bytes. The upper 16 bits are from b, the lower from a.
  static WideVec Low(Vec a, Vec b) { return (WideVec)S::template Interleave<2, false>(a, b); }
  static WideVec High(Vec a, Vec b) { return (WideVec)S::template Interleave<2, true>(a, b); }

  // Same as BFloat16::FromNumber. Only a NaN in `raw` gives a product whose payload rounding could turn into infinity.
  static Vec Narrow(Vec raw, WideVec low, WideVec high) {
    const Vec rounded = S::PackUpper(Round((WideBits)low), Round((WideBits)high));
    const Vec nan = (raw & S::SetInteger(INT16_MIN)) | S::SetInteger(0x7FC0);
    return (raw & S::SetInteger(INT16_MAX)) > S::SetInteger(0x7F80) ? nan : rounded;
  }
  static WideBits Round(WideBits bits) { return bits + (((bits >> 16) & 1) + 0x7FFF); }
};

// float16, in two vectors of float32.
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

  // The conversion instructions keep the payload of a NaN. The result is the quiet NaN of its sign, as in
  // Float16::FromNumber.
  static Vec QuietNan(Vec vec) {
    const Vec nan = (vec & S::SetInteger(INT16_MIN)) | S::SetInteger(0x7E00);
    return (vec & S::SetInteger(INT16_MAX)) > S::SetInteger(0x7C00) ? nan : vec;
  }
};

// The products of a vector of entries. Vectors hold the bits of elements.
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

  // Whether suppressed entries become +0 and selected entries are ordinary products.
  bool MaskOnly() const { return suppression_.is_zero && !separation_.is_constant; }

  // Requires MaskOnly().
  Vec Masked(Vec raw, Mask selected) const { return S::ZeroUnless(selected, Multiplier::By(raw, separation_vec_)); }
  // For any factors.
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

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_PRODUCTS_INL_H_
