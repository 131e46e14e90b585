// Passes over the scores of a row that count scores or find extremes.

#ifndef SEPARATIONFACTOR_CORE_CPU_COUNTS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_COUNTS_INL_H_

#include <cstdint>

#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"

namespace separationfactor {
namespace {

// Calls function(vector of scores) for all of v. The last vector is padded with `pad`.
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
  // The pad must differ from the value.
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

// Returns the smallest and greatest scores in [from, to], which must contain a score. Ignores NaN.
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

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_COUNTS_INL_H_
