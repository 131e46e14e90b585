// Bisection, for one row and for rows in lanes, and the cut of a row by bisection.

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

// An interval of order keys that contains the k-th greatest score, and the number of scores above `high`.
template <class Scores>
struct Interval {
  typename Scores::Keys low, high;
  typename Scores::Counts above_high;
};

// Shortens the interval between the extremes of n scores until its ends are equal. Then either exactly k scores are
// above `high`, or `high` is the k-th greatest score.
//
//   1. The first pivots are interpolated from the counts so far (the Illinois variant of regula falsi). The search ends
//      when exactly k scores are above a pivot, which is usual for distinct scores.
//   2. Then the ends of the interval move to scores that occur, which ends the search for ties.
//   3. After that each pivot halves the interval of order keys.
//
// Takes about five passes over the scores if they are distinct, ten for ties, and a few dozen in the worst case.
//
// With ScoresOfRow all variables are numbers. With ScoresInLanes (rows_in_lanes-inl.h) they are vectors, and each lane
// is a row. The outcome of a pivot is unpredictable and differs between lanes, so the updates have no branches.
template <class Scores>
[[gnu::always_inline]] inline void Bisect(const Scores& scores, int64_t n, int64_t k, Interval<Scores>& interval) {
  using Keys = typename Scores::Keys;
  using Counts = typename Scores::Counts;
  using Odds = typename Scores::Odds;
  using Flags = typename Scores::Flags;
  Keys low = interval.low, high = interval.high;
  Counts above_high = interval.above_high;
  const auto wanted = Scores::CountOf(k);
  const auto size = static_cast<float>(n);
  const float odds = LogOdds(static_cast<float>(k), size);
  // Relative to the target.
  Odds low_odds = Odds{} + (LogOdds(size, size) - odds), high_odds = Odds{} + (LogOdds(0, size) - odds);
  Flags was_low{}, was_high{};
  for (int step = 0;; ++step) {
    const auto is_open = low < high;
    if (!Scores::IsAny(is_open)) break;
    if (step % (kInterpolatedPivots + 1) == kInterpolatedPivots) {
      scores.MoveToScores(is_open, low, high);
      continue;
    }
    // The midpoint, without overflow.
    Keys pivot = static_cast<Keys>((low & high) + ((low ^ high) >> 1));
    if (step < kInterpolatedPivots) {
      const auto low_number = Scores::NumberOf(low), high_number = Scores::NumberOf(high);
      const auto fraction = Scores::NumberOfOdds(high_odds / (high_odds - low_odds));
      const auto guess = high_number - (high_number - low_number) * fraction;
      // With an infinite end the comparison fails and the midpoint stays.
      const auto is_inside = (guess >= low_number) & (guess < high_number);
      const Keys guess_key = Scores::KeyOf(guess);
      pivot = (is_inside & (guess_key < high) & (guess_key >= low)) ? guess_key : pivot;
    }
    const Counts above = scores.CountAbove(pivot);
    const auto is_found = is_open & (above == wanted);
    const auto goes_up = is_open & (above > wanted), goes_down = is_open & (above < wanted);
    const Flags up = Scores::FlagsOf(goes_up), down = Scores::FlagsOf(goes_down);
    const Odds pivot_odds = Scores::OddsOf(above, size) - odds;
    // The Illinois rule: halves the odds of an end that stays twice in a row.
    high_odds = down ? pivot_odds : ((up & was_low) ? high_odds * 0.5f : high_odds);
    low_odds = up ? pivot_odds : ((down & was_high) ? low_odds * 0.5f : low_odds);
    low = goes_up ? Scores::Next(pivot) : (is_found ? pivot : low);
    high = (goes_down | is_found) ? pivot : high;
    above_high = (goes_down | is_found) ? above : above_high;
    was_low = up;
    was_high = down;
  }
  interval = {low, high, above_high};
}

// The scores of one row, for Bisect.
template <class L>
struct ScoresOfRow {
  using Lane = typename L::Lane;
  using Number = typename L::Numbers::Number;
  using Keys = typename L::S::Integer;
  using Counts = int64_t;
  using Odds = float;
  using Flags = bool;

  static int64_t CountOf(int64_t count) { return count; }
  static bool IsAny(bool flag) { return flag; }
  static bool FlagsOf(bool flag) { return flag; }
  static float OddsOf(int64_t count, float size) { return LogOdds(static_cast<float>(count), size); }
  static Number NumberOfOdds(float odds) { return odds; }
  static Number NumberOf(Keys key) { return L::Numbers::ToNumber(LaneOfKey<Lane>(key)); }
  static Keys KeyOf(Number number) { return OrderKey(L::Numbers::ToLane(number)); }
  static Keys Next(Keys key) { return static_cast<Keys>(key + 1); }

  int64_t CountAbove(Keys key) const { return separationfactor::CountAbove<L>(v, n, LaneOfKey<Lane>(key)); }
  void MoveToScores(bool, Keys& low, Keys& high) const {
    const auto range = RangeWithin<L>(v, n, LaneOfKey<Lane>(low), LaneOfKey<Lane>(high));
    // Never moves an end outwards. It could otherwise: denormals compare equal but have different keys.
    low = OrderKey(range.low) > low ? OrderKey(range.low) : low;
    high = OrderKey(range.high) < high ? OrderKey(range.high) : high;
  }

  const typename L::Element* v;
  int64_t n;
};

// Returns the cut of the k greatest scores of v.
template <class L>
Cut<typename L::Lane> SelectByBisection(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;

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
  const Lane low = S::ReduceMin(S::Min(low_vec2, low_vec)), high = S::ReduceMax(S::Max(high_vec2, high_vec));
  int64_t above_high = 0;
  if (S::BitsOf(nans) != 0) {
    above_high = CountNan<L>(v, n);
    if (k <= above_high) return {Lane{}, k, true};
  }
  Interval<ScoresOfRow<L>> interval{OrderKey(low), OrderKey(high), above_high};
  Bisect(ScoresOfRow<L>{v, n}, n, k, interval);
  return {LaneOfKey<Lane>(interval.high), k - interval.above_high};
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_BISECTION_INL_H_
