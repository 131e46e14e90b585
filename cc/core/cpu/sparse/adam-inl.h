// A step of Adam on consecutive numbers.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_ADAM_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_ADAM_INL_H_

#include <cstdint>

#include "core/cpu/simd-inl.h"
#include "core/cpu/sparse/kernels.h"

namespace separationfactor {
namespace {

template <class Number>
typename Simd<Number>::Vec Sqrt(typename Simd<Number>::Vec vec) {
#if SEPARATIONFACTOR_AVX512
  if constexpr (sizeof(Number) == 4) return (typename Simd<Number>::Vec)_mm512_sqrt_ps((__m512)vec);
  if constexpr (sizeof(Number) == 8) return (typename Simd<Number>::Vec)_mm512_sqrt_pd((__m512d)vec);
#elif SEPARATIONFACTOR_AVX2
  if constexpr (sizeof(Number) == 4) return (typename Simd<Number>::Vec)_mm256_sqrt_ps((__m256)vec);
  if constexpr (sizeof(Number) == 8) return (typename Simd<Number>::Vec)_mm256_sqrt_pd((__m256d)vec);
#elif defined(__SSE2__)
  if constexpr (sizeof(Number) == 4) return (typename Simd<Number>::Vec)_mm_sqrt_ps((__m128)vec);
  if constexpr (sizeof(Number) == 8) return (typename Simd<Number>::Vec)_mm_sqrt_pd((__m128d)vec);
#else
  for (int i = 0; i < Simd<Number>::kLanes; ++i) {
    vec[i] = sizeof(Number) == 4 ? __builtin_sqrtf(vec[i]) : __builtin_sqrt(vec[i]);
  }
  return vec;
#endif
}

template <class Number>
void StepAdam(const AdamStep& step) {
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  auto* variable = static_cast<Number*>(step.variable);
  auto* m = static_cast<Number*>(step.m);
  auto* v = static_cast<Number*>(step.v);
  const auto* gradient = static_cast<const Number*>(step.gradient);
  const Vec alpha = S::Set(static_cast<Number>(step.alpha)), epsilon = S::Set(static_cast<Number>(step.epsilon));
  const Vec new_m = S::Set(static_cast<Number>(1 - step.beta_1)), new_v = S::Set(static_cast<Number>(1 - step.beta_2));
  constexpr int kLanes = S::kLanes;
  for (int64_t i = 0; i < step.count; i += kLanes) {
    // The last vector takes the same instructions as the others. Of another copy of the code, the compiler could fuse
    // other products.
    const int count = step.count - i < kLanes ? static_cast<int>(step.count - i) : kLanes;
    Number padded[3][kLanes] = {};
    Number* at[3] = {variable + i, m + i, v + i};
    Vec g{};
    if (__builtin_expect(count < kLanes, 0)) {
      for (int j = 0; j < 3; ++j) {
        __builtin_memcpy(padded[j], at[j], count * sizeof(Number));
        at[j] = padded[j];
      }
      if (gradient != nullptr) g = S::LoadFirst(gradient + i, count);
    } else if (gradient != nullptr) {
      g = S::Load(gradient + i);
    }
    const Vec old_m = S::Load(at[1]), old_v = S::Load(at[2]);
    const Vec m_i = old_m + (g - old_m) * new_m, v_i = old_v + (g * g - old_v) * new_v;
    S::Store(at[0], S::Load(at[0]) - m_i * alpha / (Sqrt<Number>(v_i) + epsilon));
    S::Store(at[1], m_i);
    S::Store(at[2], v_i);
    if (__builtin_expect(count < kLanes, 0)) {
      __builtin_memcpy(variable + i, padded[0], count * sizeof(Number));
      __builtin_memcpy(m + i, padded[1], count * sizeof(Number));
      __builtin_memcpy(v + i, padded[2], count * sizeof(Number));
    }
  }
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_ADAM_INL_H_
