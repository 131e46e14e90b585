// Separates a long row with a small k in one pass that also writes y.

#ifndef SEPARATIONFACTOR_CORE_CPU_STREAM_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_STREAM_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/bitmask-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// The squared ratio of two costs: that of examining a candidate and that of sampling an entry. Chosen by
// kernels_benchmark.
constexpr float kSampleCost = 57600;

// Returns a bound that at least k scores of the row very probably exceed, and not many more than k. The bound is one of
// the greatest scores of a sample. The sample consists of groups of lanes that lie far apart, and the greatest score of
// each group is kept. If `is_certain`, returns a lower bound that at least k scores are certain to reach, the k-th
// greatest of the sample.
template <class L>
inline typename L::Lane LowerBound(const typename L::Element* x, int64_t n, int64_t k, bool is_certain,
                                   typename L::Lane* greatest) {
  using S = typename L::S;
  using Vec = typename S::Vec;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  constexpr int kRun = 4;  // adjacent vectors
  // A large sample is slow, and a small one leaves many candidates. This share of the row balances the two costs.
  const auto row_size = static_cast<float>(n), row_k = static_cast<float>(k);
  const float share = Least(1.0f, __builtin_cbrtf(kSampleCost * row_k / (row_size * row_size)));
  // The expected number of the k greatest in the sample, plus three standard deviations.
  const float expected = share * row_k;
  const float probable_rank = Least(row_k, expected + 3 * __builtin_sqrtf(expected) + 1);
  const int64_t rank = is_certain ? k : static_cast<int64_t>(probable_rank);
  // With twice as many groups, few of the greatest scores share a group.
  const int64_t runs = (2 * rank + kRun * kLanes - 1) / (kRun * kLanes);
  const int64_t all_runs = n / (kRun * kLanes);
  const int64_t depth = Greater(1, static_cast<int64_t>(share * static_cast<float>(all_runs)) / runs);
  const int64_t stride = all_runs / (depth * runs) * kRun * kLanes;
  for (int64_t run = 0; run < runs; ++run) {
    Vec max = S::Set(kLowest<Lane>), max2 = max, max3 = max, max4 = max;
    const auto* from = x + run * stride;
    for (int64_t d = 0; d < depth; ++d, from += runs * stride) {
      max = S::Max(L::Load(from), max);
      max2 = S::Max(L::Load(from + kLanes), max2);
      max3 = S::Max(L::Load(from + 2 * kLanes), max3);
      max4 = S::Max(L::Load(from + 3 * kLanes), max4);
    }
    Lane* to = greatest + run * kRun * kLanes;
    S::Store(to, max);
    S::Store(to + kLanes, max2);
    S::Store(to + 2 * kLanes, max3);
    S::Store(to + 3 * kLanes, max4);
  }
  return SelectByBisection<typename L::AsLanes>(greatest, runs * kRun * kLanes, rank).threshold;
}

// Marks the scores above the threshold in `selected` and lists the blocks that contain any. Returns the number of
// listed blocks. If kWrite, also writes y as if nothing were selected.
template <class T, Score kScore, bool kMaskOnly, bool kWrite>
inline int64_t Mark(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                    typename Scored<T, kScore>::Lane threshold, const Products<T>& products, int32_t* blocks) {
  using L = Scored<T, kScore>;
  using S = typename L::S;
  using Vec = typename S::Vec;
  using Mask = typename S::Mask;
  constexpr int kLanes = S::kLanes;
  const Vec threshold_vec = S::Set(threshold);
  int64_t count = 0;
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    uint64_t bits = 0;
#pragma GCC unroll 8
    for (int j = 0; j < kBlock; j += kLanes) {
      const Vec raw = S::Load(x + i + j);
      bits |= S::BitsOf(S::Above(L::Of(raw), threshold_vec)) << j;
      if (kWrite) S::Store(y + i + j, kMaskOnly ? Vec{} : products.Suppressed(raw));
    }
    StoreBits(selected + i / 8, bits, kBlock);
    blocks[count] = static_cast<int32_t>(i / kBlock);
    count += bits != 0;
  }
  if (i == n) return count;
  uint64_t bits = 0;
  for (int j = 0; i + j < n; j += kLanes) {
    const int lanes = static_cast<int>(Smaller(kLanes, n - i - j));
    const Vec raw = lanes < kLanes ? S::LoadFirst(x + i + j, lanes) : S::Load(x + i + j);
    const Mask above = S::Above(L::Of(raw), threshold_vec);
    bits |= S::BitsOf(lanes < kLanes ? S::And(S::FirstLanes(lanes), above) : above) << j;
    if (kWrite) {
      const Vec product = kMaskOnly ? Vec{} : products.Suppressed(raw);
      lanes < kLanes ? S::StoreFirst(y + i + j, product, lanes) : S::Store(y + i + j, product);
    }
  }
  StoreBits(selected + i / 8, bits, static_cast<int>(n - i));
  blocks[count] = static_cast<int32_t>(i / kBlock);
  return count + (bits != 0);
}

// The candidates of a long row: see SeparateByStream.
template <class T, Score kScore>
struct Candidates {
  using Lane = typename Scored<T, kScore>::Lane;
  using Bits = typename T::Bits;

  // Candidates for an eighth of a row fit into one row of scratch, even for 2-byte elements.
  static constexpr int64_t MaxCount(int64_t n) { return n / 8; }
  // The size without the list of blocks.
  static constexpr int64_t Bytes(int64_t max_count) {
    return (max_count + kBlock) * static_cast<int64_t>(sizeof(Lane) + sizeof(Bits) + sizeof(int32_t));
  }

  Candidates(void* memory, int64_t max_count) : max_count(max_count) {
    const int64_t room = max_count + kBlock;
    scores = static_cast<Lane*>(memory);
    bits = reinterpret_cast<Bits*>(scores + room);
    indices = reinterpret_cast<int32_t*>(bits + room);
    blocks = indices + room;
  }

  void Add(int64_t index, Bits element) {
    indices[count] = static_cast<int32_t>(index);
    bits[count++] = element;
  }

  // Adds the entries marked in the first `block_count` listed blocks. Returns false if there are too many.
  bool Extract(const Bits* x, const uint8_t* selected, int64_t n, int64_t block_count) {
    for (int64_t b = 0; b < block_count; ++b) {
      const int64_t i = int64_t{blocks[b]} * kBlock;
      uint64_t word = LoadBits(selected + i / 8, static_cast<int>(Smaller(kBlock, n - i)));
      const int found = __builtin_popcountll(word);
      if (count + found > max_count) return false;
      // Most blocks have few candidates. Four indices are always stored, and the next block overwrites the surplus.
      // This saves branch mispredictions.
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        indices[count + j] = static_cast<int32_t>(i + __builtin_ctzll(word | uint64_t{1} << 63));
        word &= word - 1;
      }
      for (int j = 4; j < found; ++j) {
        indices[count + j] = static_cast<int32_t>(i + __builtin_ctzll(word));
        word &= word - 1;
      }
      count += found;
    }
    for (int64_t i = 0; i < count; ++i) bits[i] = x[indices[i]];
    return true;
  }

  int64_t max_count;
  int64_t count = 0;
  Lane* scores;
  Bits* bits;
  int32_t* indices;
  int32_t* blocks;
};

// Marks and lists the candidates of a row or of a segment. If y is not x, also writes y as if nothing were selected. If
// y is x, the row stays unchanged, because a retry may need it. Returns false if there are too many candidates.
template <class T, Score kScore>
bool FindCandidates(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                    typename Scored<T, kScore>::Lane bound, const Products<T>& products,
                    Candidates<T, kScore>& candidates) {
  const auto mark = x == y ? Mark<T, kScore, true, false>
                           : (products.MaskOnly() ? Mark<T, kScore, true, true> : Mark<T, kScore, false, true>);
  const int64_t blocks = mark(x, y, selected, n, bound, products, candidates.blocks);
  return candidates.Extract(x, selected, n, blocks);
}

// Keeps the candidates that are selected and unmarks the others. All candidates score above `bound`. Fewer than k
// candidates usually mean ties at the bound: then the first entries that equal the bound are added. Returns false if
// there are not enough of them.
template <class T, Score kScore>
bool ChooseAmongCandidates(const typename T::Bits* x, uint8_t* selected, int64_t n, int64_t k,
                           typename Scored<T, kScore>::Lane bound, Candidates<T, kScore>& candidates) {
  using L = Scored<T, kScore>;
  using S = typename L::S;
  if (candidates.count > k) {
    int64_t i = 0;
    for (; i < candidates.count; i += S::kLanes) S::Store(candidates.scores + i, L::Load(candidates.bits + i));
    auto cut = SelectByBisection<typename L::AsLanes>(candidates.scores, candidates.count, k);
    int64_t kept = 0;
    for (i = 0; i < candidates.count; ++i) {
      const int64_t index = candidates.indices[i];
      const auto score = candidates.scores[i];
      const bool takes_quota = cut.quota > 0 && cut.IsEqual(score);
      cut.quota -= takes_quota;
      // Branch-free, because the outcome is unpredictable.
      const bool keep = takes_quota | cut.IsAbove(score);
      candidates.bits[kept] = candidates.bits[i];
      candidates.indices[kept] = static_cast<int32_t>(index);
      kept += keep;
      selected[index / 8] &= static_cast<uint8_t>(~(!keep << index % 8));
    }
    candidates.count = kept;
    return true;
  }
  // Adds the first entries that equal the bound until there are k.
  const auto bound_vec = S::Set(bound);
  for (int64_t i = 0; candidates.count < k; i += S::kLanes) {
    if (i >= n) return false;
    const int lanes = static_cast<int>(Smaller(S::kLanes, n - i));
    const auto score = lanes == S::kLanes ? L::Load(x + i) : L::LoadFirst(x + i, lanes, kHighest<typename L::Lane>);
    uint64_t equal = S::BitsOf(S::Equal(score, bound_vec));
    for (; equal != 0 && candidates.count < k; equal &= equal - 1) {
      const int64_t index = i + __builtin_ctzll(equal);
      if (index >= n) return false;
      candidates.Add(index, x[index]);
      selected[index / 8] |= static_cast<uint8_t>(1 << index % 8);
    }
  }
  return true;
}

// Writes the products of the selected candidates to y.
template <class T, Score kScore>
void WriteCandidates(const Candidates<T, kScore>& candidates, typename T::Bits* y, const Products<T>& products) {
  for (int64_t i = 0; i < candidates.count; ++i) {
    y[candidates.indices[i]] = products.Separated(candidates.bits[i]);
  }
}

// Separates a row in one pass. The pass marks the candidates, the scores above a bound, in the bitmask and writes y as
// if nothing were selected. The steps that follow touch only the candidates.
//
// Returns false, with x unchanged, if the bound was too high or so low that there are too many candidates. A bound that
// is not certain may be too high in sorted rows.
template <class T, Score kScore>
bool SeparateByStream(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n, int64_t k,
                      bool is_certain, const Products<T>& products, void* scratch) {
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;
  const Lane bound = LowerBound<L>(x, n, k, is_certain, static_cast<Lane*>(scratch));
  Candidates<T, kScore> candidates(scratch, Candidates<T, kScore>::MaxCount(n));
  if (!FindCandidates(x, y, selected, n, bound, products, candidates) ||
      !ChooseAmongCandidates(x, selected, n, k, bound, candidates)) {
    return false;
  }
  if (x == y) Suppress<T>(x, y, n, products);
  WriteCandidates(candidates, y, products);
  return true;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_STREAM_INL_H_
