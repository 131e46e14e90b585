// Finds the cut of a row by bisection.

#ifndef SEPARATIONFACTOR_CORE_CPU_BISECTION_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_BISECTION_INL_H_

#include <cstdint>

#include "core/cpu/counts-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/types.h"

namespace separationfactor {
namespace {

// Approximates log2 by the exponent plus the fraction of the significand. Exact at powers of two.
inline float RoughLog2(float x) { return static_cast<float>(BitCast<int32_t>(x) - 0x3F800000) * 0x1p-23f; }

// The log-odds that one of n scores is among the greatest `count`. For the outputs of a network it is nearly linear in
// the score, so pivots are interpolated in it.
inline float LogOdds(float count, float n) { return RoughLog2(count + 0.5f) - RoughLog2(n - count + 0.5f); }

// The number of pivots that bisection interpolates before it moves the ends of the interval to scores that occur.
constexpr int kInterpolatedPivots = 8;

// Returns the cut of the k greatest scores of v, by bisection between the extremes.
//
//   1. The first pivots are interpolated from the counts so far (the Illinois variant of regula falsi). The search ends
//      when exactly k scores are above a pivot, which is usual for distinct scores.
//   2. Then the ends of the interval move to scores that occur, which ends the search for ties.
//   3. After that each pivot halves the interval of order keys.
//
// Takes about five passes over v for distinct scores, ten for ties, and a few dozen in the worst case.
template <class L>
Cut<typename L::Lane> SelectByBisection(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  using Integer = typename S::Integer;
  using Numbers = typename L::Numbers;
  using Number = typename Numbers::Number;

  auto low_vec = S::Set(kHighest<Lane>), high_vec = S::Set(kLowest<Lane>);
  auto low_vec2 = low_vec, high_vec2 = high_vec;
  auto nans = S::Unordered(low_vec, low_vec);
  constexpr int kLanes = S::kLanes;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const auto x = L::Load(v + i), x2 = L::Load(v + i + kLanes);
    low_vec = S::Min(x, low_vec);
    low_vec2 = S::Min(x2, low_vec2);
    high_vec = S::Max(x, high_vec);
    high_vec2 = S::Max(x2, high_vec2);
    nans |= S::Unordered(x, x2);
  }
  for (; i < n; i += kLanes) {
    const int count = static_cast<int>(Smaller(kLanes, n - i));
    const auto x = count == kLanes ? L::Load(v + i) : L::LoadFirst(v + i, count, kHighest<Lane>);
    const auto x2 = count == kLanes ? x : L::LoadFirst(v + i, count, kLowest<Lane>);
    low_vec = S::Min(x, low_vec);
    high_vec = S::Max(x2, high_vec);
    nans |= S::Unordered(x, x2);
  }
  Lane low = S::ReduceMin(S::Min(low_vec2, low_vec)), high = S::ReduceMax(S::Max(high_vec2, high_vec));
  int64_t above_high = 0;
  if (S::BitsOf(nans) != 0) {
    above_high = CountNan<L>(v, n);
    if (k <= above_high) return {Lane{}, k, true};
  }

  const auto size = static_cast<float>(n);
  const float odds = LogOdds(static_cast<float>(k), size);
  float low_odds = LogOdds(size, size) - odds, high_odds = LogOdds(0, size) - odds;  // relative to the target
  Integer low_key = OrderKey(low), high_key = OrderKey(high);
  bool was_low = false, was_high = false;
  for (int step = 0; low_key < high_key; ++step) {
    low = LaneOfKey<Lane>(low_key);
    high = LaneOfKey<Lane>(high_key);
    if (step % (kInterpolatedPivots + 1) == kInterpolatedPivots) {
      const auto range = RangeWithin<L>(v, n, low, high);
      // Never moves an end outwards. It could otherwise: denormals compare equal but have different keys.
      low_key = OrderKey(range.low) > low_key ? OrderKey(range.low) : low_key;
      high_key = OrderKey(range.high) < high_key ? OrderKey(range.high) : high_key;
      continue;
    }
    // The midpoint, without overflow.
    Integer pivot_key = static_cast<Integer>((low_key & high_key) + ((low_key ^ high_key) >> 1));
    if (step < kInterpolatedPivots) {
      const Number low_number = Numbers::ToNumber(low), high_number = Numbers::ToNumber(high);
      const auto fraction = static_cast<Number>(high_odds / (high_odds - low_odds));
      const Number guess = high_number - (high_number - low_number) * fraction;
      // With an infinite end the comparison fails and the midpoint stays.
      if (guess >= low_number && guess < high_number) {
        const Integer guess_key = OrderKey(Numbers::ToLane(guess));
        pivot_key = guess_key >= low_key && guess_key < high_key ? guess_key : pivot_key;
      }
    }
    const Lane pivot = LaneOfKey<Lane>(pivot_key);
    const int64_t above = CountAbove<L>(v, n, pivot);
    if (above == k) return {pivot, 0};
    // The outcome is unpredictable, so the updates are written without branches.
    const bool is_low = above > k;
    const float pivot_odds = LogOdds(static_cast<float>(above), size) - odds;
    // The Illinois rule: halves the odds of an end that stays twice in a row.
    high_odds = is_low ? (was_low ? high_odds * 0.5f : high_odds) : pivot_odds;
    low_odds = is_low ? pivot_odds : (was_high ? low_odds * 0.5f : low_odds);
    low_key = is_low ? static_cast<Integer>(pivot_key + 1) : low_key;
    high_key = is_low ? high_key : pivot_key;
    above_high = is_low ? above_high : above;
    was_low = is_low;
    was_high = !is_low;
  }
  return {LaneOfKey<Lane>(high_key), k - above_high};
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_BISECTION_INL_H_
