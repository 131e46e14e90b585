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
  const Vec new_m = S::Set(1 - static_cast<Number>(step.beta_1)), new_v = S::Set(1 - static_cast<Number>(step.beta_2));
  const auto update = [&](Vec& p, Vec& m, Vec& v, Vec g) {
    m += (g - m) * new_m;
    v += (g * g - v) * new_v;
    p -= m * alpha / (Sqrt<Number>(v) + epsilon);
  };
  int64_t i = 0;
  for (; i + S::kLanes <= step.count; i += S::kLanes) {
    Vec p = S::Load(variable + i), m_i = S::Load(m + i), v_i = S::Load(v + i);
    update(p, m_i, v_i, gradient != nullptr ? S::Load(gradient + i) : Vec{});
    S::Store(variable + i, p);
    S::Store(m + i, m_i);
    S::Store(v + i, v_i);
  }
  if (i < step.count) {
    const int count = static_cast<int>(step.count - i);
    Vec p = S::LoadFirst(variable + i, count), m_i = S::LoadFirst(m + i, count), v_i = S::LoadFirst(v + i, count);
    update(p, m_i, v_i, gradient != nullptr ? S::LoadFirst(gradient + i, count) : Vec{});
    S::StoreFirst(variable + i, p, count);
    S::StoreFirst(m + i, m_i, count);
    S::StoreFirst(v + i, v_i, count);
  }
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_ADAM_INL_H_
