// Finds the cut of a long row: two pivots from a sample enclose it.

#ifndef SEPARATIONFACTOR_CORE_CPU_SAMPLE_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SAMPLE_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/counts-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/path.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"

namespace separationfactor {
namespace {

// Returns pivots that very probably enclose the k-th greatest score of a long row: it is above `low` and not above
// `high`.
template <class L>
Range<typename L::Lane> SamplePivots(const typename L::Element* v, int64_t n, int64_t k) {
  using S = typename L::S;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  Lane sample[kSample];
  const int64_t stride = n / kSample;
  for (int64_t i = 0; i < kSample / kLanes; ++i) S::Store(sample + i * kLanes, L::Load(v + i * stride * kLanes));

  // The rank of the k-th greatest in the sample, plus and minus three standard deviations.
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
  int64_t above;  // number of scores above the upper pivot
  int64_t count;  // number of scores between the pivots
};

// Stores the scores between the pivots in `between`, which has room for n lanes and one vector.
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

// Returns the cut of the k greatest scores of a long row. Two pivots from a sample enclose the cut, one pass keeps the
// scores between them, and these are bisected. If the pivots do not enclose the cut, all of v is bisected. `between`
// has room for n lanes and one vector.
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

#endif  // SEPARATIONFACTOR_CORE_CPU_SAMPLE_INL_H_
