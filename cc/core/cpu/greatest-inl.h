// Separates rows with k = 1.

#ifndef SEPARATIONFACTOR_CORE_CPU_GREATEST_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_GREATEST_INL_H_

#include <cstdint>
#include <cstring>

#include "core/cpu/products-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// Returns the index of the first entry with the greatest score.
template <class L>
int64_t FindGreatest(const typename L::Element* x, int64_t n) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  // The second search, for the index, covers one chunk.
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

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_GREATEST_INL_H_
