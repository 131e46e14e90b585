// Scalar products of an example with a kernel's rows.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_GATHER_DOT_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_GATHER_DOT_INL_H_

#include <cstdint>

#include "core/cpu/sparse/elements-inl.h"
#include "core/sparse.h"

namespace separationfactor {
namespace {

template <class Number>
Number ReduceAdd(typename Simd<Number>::Vec vec) {
  Number sums[Simd<Number>::kLanes];
  Simd<Number>::Store(sums, vec);
  for (int half = Simd<Number>::kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

// Computes kRows products at a time, which share the loads of x. Each has two accumulators, for even and odd vectors,
// so that a product's bits do not depend on kRows.
template <class T, class Kernel, int kRows>
void Dots(const typename T::Number* x, const typename Kernel::Bits* const* rows, int64_t d, typename T::Bits* s) {
  using Number = typename T::Number;
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  using K = Elements<Kernel>;
  Vec even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = Vec{};
  int64_t i = 0;
  for (; i + 2 * S::kLanes <= d; i += 2 * S::kLanes) {
    const Vec x_even = S::Load(x + i), x_odd = S::Load(x + i + S::kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      even[r] += x_even * K::Load(rows[r] + i);
      odd[r] += x_odd * K::Load(rows[r] + i + S::kLanes);
    }
  }
  if (i + S::kLanes <= d) {
    const Vec x_even = S::Load(x + i);
    for (int r = 0; r < kRows; ++r) even[r] += x_even * K::Load(rows[r] + i);
    i += S::kLanes;
  }
  if (i < d) {
    const int count = static_cast<int>(d - i);
    Vec x_last{};
    __builtin_memcpy(&x_last, x + i, count * sizeof(Number));
    for (int r = 0; r < kRows; ++r) odd[r] += x_last * K::LoadFirst(rows[r] + i, count);
  }
  for (int r = 0; r < kRows; ++r) s[r] = T::FromNumber(ReduceAdd<Number>(even[r] + odd[r]));
}

template <class T, class Kernel>
void GatherDots(const GatherDotArgs& args, int64_t begin, int64_t end, void* scratch) {
  using Number = typename T::Number;
  using X = Elements<T>;
  constexpr int kRows = 4;
  const auto* kernel = static_cast<const typename Kernel::Bits*>(args.kernel);
  for (int64_t row = begin; row < end; ++row) {
    const auto* bits = static_cast<const typename T::Bits*>(args.x) + row * args.d;
    auto* s = static_cast<typename T::Bits*>(args.s) + row * args.k;
    const int32_t* indices = args.indices + row * args.k;
    const Number* x;
    if constexpr (X::kIsHalf) {
      auto* numbers = static_cast<Number*>(scratch);
      for (int64_t i = 0; i < args.d; ++i) numbers[i] = T::ToNumber(bits[i]);
      x = numbers;
    } else {
      x = reinterpret_cast<const Number*>(bits);
    }
    int64_t j = 0;
    const typename Kernel::Bits* rows[kRows];
    for (; j + kRows <= args.k; j += kRows) {
      for (int r = 0; r < kRows; ++r) rows[r] = kernel + indices[j + r] * args.d;
      Dots<T, Kernel, kRows>(x, rows, args.d, s + j);
    }
    for (; j < args.k; ++j) {
      rows[0] = kernel + indices[j] * args.d;
      Dots<T, Kernel, 1>(x, rows, args.d, s + j);
    }
  }
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_GATHER_DOT_INL_H_
