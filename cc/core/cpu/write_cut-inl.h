// Writes y and the bitmask for a given cut.

#ifndef SEPARATIONFACTOR_CORE_CPU_WRITE_CUT_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_WRITE_CUT_INL_H_

#include <cstdint>
#include <cstring>

#include "core/cpu/bitmask-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// Marks the selected lanes of one vector after another. `quota` counts the ties that are still to be selected.
template <class L, bool kTies>
struct Selector {
  using S = typename L::S;
  using Vec = typename S::Vec;
  using Mask = typename S::Mask;

  explicit Selector(const Cut<typename L::Lane>& cut)
      : threshold(S::Set(cut.threshold)), quota(cut.quota), is_nan(cut.is_nan) {}
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

// Writes y and the bitmask of a row or a segment. kTies: the cut has ties to select or is NaN.
template <class T, Score kScore, bool kMaskOnly, bool kTies>
inline void WriteCut(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                     const Cut<typename Scored<T, kScore>::Lane>& cut, const Products<T>& products) {
  using L = Scored<T, kScore>;
  using S = typename L::S;
  using Vec = typename S::Vec;
  using Mask = typename S::Mask;
  constexpr int kLanes = S::kLanes;
  Selector<L, kTies> select(cut);
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

// Writes y and the bitmask of a row or a segment.
template <class T, Score kScore>
inline void WriteCut(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                     const Cut<typename Scored<T, kScore>::Lane>& cut, const Products<T>& products) {
  const bool ties = cut.quota > 0 || cut.is_nan;
  const auto write = products.MaskOnly()
                         ? (ties ? WriteCut<T, kScore, true, true> : WriteCut<T, kScore, true, false>)
                         : (ties ? WriteCut<T, kScore, false, true> : WriteCut<T, kScore, false, false>);
  write(x, y, selected, n, cut, products);
}

// Writes y as if nothing were selected.
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

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_WRITE_CUT_INL_H_
