// Finds the cut of a row.

#ifndef SEPARATIONFACTOR_CORE_SELECT_INL_H_
#define SEPARATIONFACTOR_CORE_SELECT_INL_H_

#include <cstdint>
#include <type_traits>

#include "core/scores-inl.h"
#include "core/simd-inl.h"

namespace separationfactor {
namespace {

// Calls function(vec of scores) for all of v; the last, if not full, is padded.
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
  // A pad that is not the value.
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

// The smallest and greatest scores in [from, to], NaN aside. There is one.
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

// Roughly log2, exact at powers of two: the exponent, and the fraction as it stands.
inline float RoughLog2(float x) { return static_cast<float>(BitCast<int32_t>(x) - 0x3F800000) * 0x1p-23f; }

// The logarithm of the odds that one of n scores is among the greatest `count`. For what comes out of a network
// it runs nearly straight from the least score to the greatest, so pivots are interpolated in it.
inline float LogOdds(float count, float n) { return RoughLog2(count + 0.5f) - RoughLog2(n - count + 0.5f); }

// The cut of the k greatest of v, by bisection between the extremes. The first pivots are interpolated from the
// counts so far (the Illinois variant of regula falsi); for distinct scores that usually ends it, as soon as a
// pivot has k above it. Then the ends move to scores that occur, which ends it for ties, and what goes on halves
// the interval of order keys. That makes about five passes over v for distinct scores, ten for ties, and a few
// dozen at worst.
template <class L>
Cut<typename L::Lane> SelectByBisection(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  using Integer = typename S::Integer;
  using Numbers = typename L::Numbers;
  using Number = typename Numbers::Number;
  constexpr int kGuesses = 8;

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
  float low_odds = LogOdds(size, size) - odds, high_odds = LogOdds(0, size) - odds;  // relative to those wanted
  Integer low_key = OrderKey(low), high_key = OrderKey(high);
  bool was_low = false, was_high = false;
  for (int step = 0; low_key < high_key; ++step) {
    low = LaneOfKey<Lane>(low_key);
    high = LaneOfKey<Lane>(high_key);
    if (step % (kGuesses + 1) == kGuesses) {
      const auto range = RangeWithin<L>(v, n, low, high);
      // Never outwards, where denormals, which compare as equal, have different keys.
      low_key = OrderKey(range.low) > low_key ? OrderKey(range.low) : low_key;
      high_key = OrderKey(range.high) < high_key ? OrderKey(range.high) : high_key;
      continue;
    }
    // The middle, without overflow.
    Integer pivot_key = static_cast<Integer>((low_key & high_key) + ((low_key ^ high_key) >> 1));
    if (step < kGuesses) {
      const Number low_number = Numbers::ToNumber(low), high_number = Numbers::ToNumber(high);
      const auto fraction = static_cast<Number>(high_odds / (high_odds - low_odds));
      const Number guess = high_number - (high_number - low_number) * fraction;
      // Infinite ends make no guess.
      if (guess >= low_number && guess < high_number) {
        const Integer guess_key = OrderKey(Numbers::ToLane(guess));
        pivot_key = guess_key >= low_key && guess_key < high_key ? guess_key : pivot_key;
      }
    }
    const Lane pivot = LaneOfKey<Lane>(pivot_key);
    const int64_t above = CountAbove<L>(v, n, pivot);
    if (above == k) return {pivot, 0};
    // Which way it goes is a coin's toss, so there should be no branch to predict here.
    const bool is_low = above > k;
    const float pivot_odds = LogOdds(static_cast<float>(above), size) - odds;
    // An end that stays twice in a row counts half.
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

// Scores that the k-th greatest of a long row very probably lies between: above `low`, and not above `high`.
template <class L>
Range<typename L::Lane> SamplePivots(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  constexpr int kSample = 512;
  Lane sample[kSample];
  const int64_t stride = n / kSample;
  for (int64_t i = 0; i < kSample / kLanes; ++i) S::Store(sample + i * kLanes, L::Load(v + i * stride * kLanes));

  // The rank of the k-th in the sample, give or take three standard deviations.
  const float share = static_cast<float>(k) / static_cast<float>(n);
  const float deviation = 3 * __builtin_sqrtf(kSample * share * (1 - share)) + 1;
  const auto rank_high = static_cast<int64_t>(kSample * share - deviation);
  const auto rank_low = static_cast<int64_t>(kSample * share + deviation) + 1;
  Range<Lane> pivots{kLowest<Lane>, kHighest<Lane>};
  if (rank_high >= 1) {
    const auto cut = SelectByBisection<typename L::AsLanes>(sample, kSample, rank_high);
    if (!cut.is_nan) pivots.high = cut.threshold;
  }
  if (rank_low <= kSample) {
    const auto cut = SelectByBisection<typename L::AsLanes>(sample, kSample, rank_low);
    if (!cut.is_nan) pivots.low = cut.threshold;
  }
  return pivots;
}

struct Between {
  int64_t above;  // how many scores are above the upper pivot
  int64_t count;  // how many between the pivots
};

// Keeps the scores between the pivots in `between`, which has room for n lanes and a vector.
template <class L>
Between KeepBetween(const typename L::Element* v, int64_t n, Range<typename L::Lane> pivots,
                    typename L::Lane* between) {
  using S = typename L::S;
  const auto high_vec = S::Set(pivots.high), low_vec = S::Set(pivots.low);
  typename S::Counter above_high;
  int64_t count = 0;
  ForEachVec<L>(v, n, kLowest<typename L::Lane>, [&](auto x) {
    const auto above = S::Above(x, high_vec);
    above_high.Add(above);
    count += S::Compress(between + count, S::AndNot(S::Above(x, low_vec), above), x);
  });
  return {above_high.Total(), count};
}

// The cut of the k greatest of a long row: two pivots from a sample enclose it, and one pass keeps what lies
// between them. `between` is as above. Where the sample misleads, all of v is bisected.
template <class L>
Cut<typename L::Lane> SelectBySample(const typename L::Element* v, int64_t n, int64_t k, typename L::Lane* between) {
  const auto pivots = SamplePivots<L>(v, n, k);
  const Between kept = KeepBetween<L>(v, n, pivots, between);
  const int64_t rest = k - kept.above;
  if (0 < rest && rest <= kept.count) return SelectByBisection<typename L::AsLanes>(between, kept.count, rest);
  if (rest > kept.count && rest <= kept.count + CountEqual<L>(v, n, pivots.low)) return {pivots.low, rest - kept.count};
  return SelectByBisection<L>(v, n, k);
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SELECT_INL_H_
