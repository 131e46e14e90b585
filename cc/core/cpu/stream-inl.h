// Separates a long row of which little is selected in one pass that writes as well.

#ifndef SEPARATIONFACTOR_CORE_CPU_STREAM_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_STREAM_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/bitmask-inl.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// What it costs to look at a candidate, over what it costs to sample an entry, squared.
constexpr float kSampleCost = 57600;

// A score that at least k scores of the row very probably exceed, and not many more: one of the greatest of a
// sample. The sample falls into groups, of lanes that lie far apart, and of each group the greatest is kept.
// If `is_certain`, a lower score, which at least k scores surely reach: the k-th of the sample.
template <class L>
inline typename L::Lane LowerBound(const typename L::Element* x, int64_t n, int64_t k, bool is_certain,
                                   typename L::Lane* greatest) {
  using S = typename L::S;
  using Vec = typename S::Vec;
  using Lane = typename L::Lane;
  constexpr int kLanes = S::kLanes;
  constexpr int kRun = 4;  // vectors that lie together
  // A large sample takes long, a small one leaves many candidates; this share of the row balances both. The
  // constant was chosen by kernels_benchmark.
  const auto row_size = static_cast<float>(n), row_k = static_cast<float>(k);
  const float share = Least(1.0f, __builtin_cbrtf(kSampleCost * row_k / (row_size * row_size)));
  // How many of the k greatest the sample has, and three standard deviations more.
  const float expected = share * row_k;
  const float probable_rank = Least(row_k, expected + 3 * __builtin_sqrtf(expected) + 1);
  const int64_t rank = is_certain ? k : static_cast<int64_t>(probable_rank);
  // With twice as many groups as that, few of the greatest share one.
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

// Marks what scores above the threshold in `selected`, lists the blocks where anything does, and returns how
// many do. Writes y, unless kWrite is false, as if nothing were selected.
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

// What a long row is searched with: see SeparateByStream.
template <class T, Score kScore>
struct Candidates {
  using Lane = typename Scored<T, kScore>::Lane;
  using Bits = typename T::Bits;

  // Of an eighth of a row, all of this fits into a row of scratch, be it of 2-byte elements.
  static constexpr int64_t MaxCount(int64_t n) { return n / 8; }
  // Without the list of blocks.
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

  // Takes those that the bitmask has in the first block_count of the listed blocks. False if they are too many.
  bool Extract(const Bits* x, const uint8_t* selected, int64_t n, int64_t block_count) {
    for (int64_t b = 0; b < block_count; ++b) {
      const int64_t i = int64_t{blocks[b]} * kBlock;
      uint64_t word = LoadBits(selected + i / 8, static_cast<int>(Smaller(kBlock, n - i)));
      const int found = __builtin_popcountll(word);
      if (count + found > max_count) return false;
      // Most blocks have few. Four are always written, and the next block overwrites what wasn't there, so that
      // there is less to predict.
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

// Marks the candidates of a row, or of a part of one, and lists them. Writes y as if nothing were selected, unless
// y is x: then the bitmask and the candidates' own bits come to hold what is needed of x.
template <class T, Score kScore>
bool FindCandidates(const typename T::Bits* x, typename T::Bits* y, uint8_t* selected, int64_t n,
                    typename Scored<T, kScore>::Lane bound, const Products<T>& products,
                    Candidates<T, kScore>& candidates) {
  const auto mark = x == y ? Mark<T, kScore, true, false>
                           : (products.MaskOnly() ? Mark<T, kScore, true, true> : Mark<T, kScore, false, true>);
  const int64_t blocks = mark(x, y, selected, n, bound, products, candidates.blocks);
  return candidates.Extract(x, selected, n, blocks);
}

// Leaves those candidates that are selected, and unmarks the others. Candidates score above `bound`; if they are
// fewer than k, it is ties as a rule, and the bound itself is the threshold. Returns false where it is not.
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
      // Without a branch, as it could not be predicted.
      const bool keep = takes_quota | cut.IsAbove(score);
      candidates.bits[kept] = candidates.bits[i];
      candidates.indices[kept] = static_cast<int32_t>(index);
      kept += keep;
      selected[index / 8] &= static_cast<uint8_t>(~(!keep << index % 8));
    }
    candidates.count = kept;
    return true;
  }
  // If enough scores equal the bound, the first of them make up for what is missing.
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

template <class T, Score kScore>
void WriteCandidates(const Candidates<T, kScore>& candidates, typename T::Bits* y, const Products<T>& products) {
  for (int64_t i = 0; i < candidates.count; ++i) {
    y[candidates.indices[i]] = products.Separated(candidates.bits[i]);
  }
}

// One pass over the row marks in the bitmask the candidates, which score above a bound, and writes y as if nothing
// were selected. What is then left to do concerns the candidates alone. Returns false where the bound was too
// high, as may happen in sorted rows unless it is certain, or so low that there are too many candidates; x is
// then as it was.
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
