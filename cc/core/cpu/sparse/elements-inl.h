// Elements of any dtype as vectors of the numbers in which sums are made: float, or double for float64.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_ELEMENTS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_ELEMENTS_INL_H_

#include <cstdint>
#include <type_traits>

#include "core/cpu/simd-inl.h"
#include "core/types.h"

namespace separationfactor {
namespace {

template <class T>
struct Elements {
  using Bits = typename T::Bits;
  using Number = typename T::Number;
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  static constexpr int kLanes = S::kLanes;
  static constexpr bool kIsHalf = sizeof(Bits) == 2;
  // The bits of a vector's elements.
  typedef Bits Packed __attribute__((vector_size(kLanes * sizeof(Bits))));

  static Vec Load(const Bits* from) {
    Packed packed;
    __builtin_memcpy(&packed, from, sizeof(packed));
    return Widen(packed);
  }
  // Loads the first `count` elements and sets the others to zero.
  static Vec LoadFirst(const Bits* from, int count) {
    Packed packed{};
    __builtin_memcpy(&packed, from, count * sizeof(Bits));
    return Widen(packed);
  }
  static void Store(Bits* to, Vec vec) {
    const Packed packed = Narrow(vec);
    __builtin_memcpy(to, &packed, sizeof(packed));
  }
  static void StoreFirst(Bits* to, Vec vec, int count) {
    const Packed packed = Narrow(vec);
    __builtin_memcpy(to, &packed, count * sizeof(Bits));
  }

 private:
  static Vec Widen(Packed packed) {
    if constexpr (!kIsHalf) {
      return (Vec)packed;
    } else if constexpr (std::is_same<T, BFloat16>::value) {
      return (Vec)(__builtin_convertvector(packed, typename S::UnsignedVec) << 16);
    } else {
#if SEPARATIONFACTOR_AVX512
      return (Vec)_mm512_cvtph_ps((__m256i)packed);
#elif SEPARATIONFACTOR_AVX2
      return (Vec)_mm256_cvtph_ps((__m128i)packed);
#else
      Vec vec;
      for (int i = 0; i < kLanes; ++i) vec[i] = T::ToNumber(packed[i]);
      return vec;
#endif
    }
  }

  static Packed Narrow(Vec vec) {
    if constexpr (!kIsHalf) {
      return (Packed)vec;
    } else if constexpr (std::is_same<T, BFloat16>::value) {
      // As BFloat16::FromNumber.
      using Unsigned = typename S::UnsignedVec;
      const Unsigned bits = (Unsigned)vec;
      const Unsigned rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
      const Unsigned nan = (bits >> 16 & 0x8000u) | 0x7FC0u;
      return __builtin_convertvector((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded, Packed);
    } else {
#if SEPARATIONFACTOR_AVX512
      return (Packed)_mm512_cvtps_ph((__m512)vec, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif SEPARATIONFACTOR_AVX2
      return (Packed)_mm256_cvtps_ph((__m256)vec, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
      Packed packed;
      for (int i = 0; i < kLanes; ++i) packed[i] = T::FromNumber(vec[i]);
      return packed;
#endif
    }
  }
};

// Calls function(traits, kernel traits) for the two dtypes of the sparse functions.
template <class Function>
inline void WithDTypes(DType dtype, DType kernel_dtype, Function&& function) {
  WithDType(dtype, [&](auto traits) {
    using T = decltype(traits);
    if constexpr (sizeof(typename T::Bits) == 2) {
      if (kernel_dtype == DType::kFloat32) return function(traits, Float32{});
    }
    function(traits, traits);
  });
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_ELEMENTS_INL_H_
