// Separates one long row that is split among threads.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPLIT_ROW_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPLIT_ROW_INL_H_

#include <cstdint>
#include <cstring>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/choose_path.h"
#include "core/cpu/counts-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/kernels.h"
#include "core/cpu/path.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/sample-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/stream-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// The stream path and the sample path, split among threads. Passes over the row run on all threads, one segment at a
// time. The other steps run on the calling thread.
template <class T, Score kScore>
class SplitRow {
 public:
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;
  using Bits = typename T::Bits;
  using RowCandidates = Candidates<T, kScore>;

  // Scratch: ScratchBytes(args) + segments.count * kScratchSlack.
  SplitRow(const SeparateArgs& args, int64_t row, const Segments& segments, void* scratch)
      : x_(static_cast<const Bits*>(args.x) + row * args.n),
        y_(static_cast<Bits*>(args.y) + row * args.n),
        selected_(args.selected + row * BitmaskBytes(args.n)),
        n_(args.n),
        k_(args.k),
        products_(args.separation, args.suppression),
        segments_(segments),
        scratch_(static_cast<char*>(scratch)) {}

  void Separate() {
    if (k_ == 0 || k_ == n_) {
      Write(k_ == 0 ? Cut<Lane>{Lane{}, 0, true} : Cut<Lane>{kLowest<Lane>, n_});
      return;
    }
    const Path path = ChoosePath(kVectorBytes, T::kDType, 1, n_, k_);
    if ((path == Path::kStream || path == Path::kGreatest) && (Stream(false) || Stream(true))) return;
    Write(Select());
  }

 private:
  // Calls function(segment, begin, size) for all segments, possibly in parallel.
  template <class Function>
  void ForEachSegment(Function function) const {
    struct Context {
      const SplitRow* row;
      Function* function;
    } context{this, &function};
    segments_.run(
        segments_.pool,
        [](void* pointer, int64_t segment) {
          const auto& [row, function] = *static_cast<Context*>(pointer);
          const int64_t begin = segment * row->segments_.length;
          (*function)(segment, begin, Smaller(row->segments_.length, row->n_ - begin));
        },
        &context);
  }
  void* ScratchOf(int64_t segment) const {
    return scratch_ + segment * (segments_.length * static_cast<int64_t>(sizeof(Bits)) + kScratchSlack);
  }

  bool Stream(bool is_certain) {
    const Lane bound = LowerBound<L>(x_, n_, k_, is_certain, reinterpret_cast<Lane*>(scratch_));
    int64_t counts[Segments::kMaxCount];  // -1: too many candidates
    ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
      RowCandidates candidates(ScratchOf(segment), RowCandidates::MaxCount(size));
      const bool fits =
          FindCandidates(x_ + begin, y_ + begin, selected_ + begin / 8, size, bound, products_, candidates);
      counts[segment] = fits ? candidates.count : -1;
    });
    int64_t total = 0;
    for (int64_t segment = 0; segment < segments_.count; ++segment) {
      if (counts[segment] < 0) return false;
      total += counts[segment];
    }
    const int64_t max_count = Greater(total, k_);
    void* const memory = __builtin_malloc(RowCandidates::Bytes(max_count));
    if (memory == nullptr) return false;
    RowCandidates candidates(memory, max_count);
    for (int64_t segment = 0; segment < segments_.count; ++segment) {
      const int64_t begin = segment * segments_.length;
      const RowCandidates part(ScratchOf(segment), RowCandidates::MaxCount(Smaller(segments_.length, n_ - begin)));
      for (int64_t i = 0; i < counts[segment]; ++i) candidates.Add(begin + part.indices[i], part.bits[i]);
    }
    const bool done = ChooseAmongCandidates(x_, selected_, n_, k_, bound, candidates);
    if (done) {
      if (x_ == y_) {
        ForEachSegment(
            [&](int64_t, int64_t begin, int64_t size) { Suppress<T>(x_ + begin, y_ + begin, size, products_); });
      }
      WriteCandidates(candidates, y_, products_);
    }
    __builtin_free(memory);
    return done;
  }

  // SelectBySample, split among threads.
  Cut<Lane> Select() {
    const auto pivots = SamplePivots<L>(x_, n_, k_);
    Between parts[Segments::kMaxCount];
    ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
      parts[segment] = KeepBetween<L>(x_ + begin, size, pivots, static_cast<Lane*>(ScratchOf(segment)));
    });
    Between kept{0, 0};
    Lane* const between = reinterpret_cast<Lane*>(scratch_);
    for (int64_t segment = 0; segment < segments_.count; ++segment) {
      std::memmove(between + kept.count, ScratchOf(segment), parts[segment].count * sizeof(Lane));
      kept.above += parts[segment].above;
      kept.count += parts[segment].count;
    }
    const int64_t rest = k_ - kept.above;
    if (0 < rest && rest <= kept.count) return SelectByBisection<typename L::AsLanes>(between, kept.count, rest);
    if (rest > kept.count) {
      const int64_t equal = CountEqual<L>(x_, n_, pivots.low);
      if (rest <= kept.count + equal) return {pivots.low, rest - kept.count};
    }
    return SelectByBisection<L>(x_, n_, k_);
  }

  void Write(const Cut<Lane>& cut) {
    // The quota of a segment depends on the ties in all segments before it.
    int64_t quotas[Segments::kMaxCount] = {};
    if (cut.quota > 0) {
      ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
        quotas[segment] = cut.is_nan ? CountNan<L>(x_ + begin, size) : CountEqual<L>(x_ + begin, size, cut.threshold);
      });
      int64_t rest = cut.quota;
      for (int64_t segment = 0; segment < segments_.count; ++segment) {
        quotas[segment] = Smaller(quotas[segment], rest);
        rest -= quotas[segment];
      }
    }
    ForEachSegment([&](int64_t segment, int64_t begin, int64_t size) {
      const Cut<Lane> part{cut.threshold, quotas[segment], cut.is_nan};
      WriteCut<T, kScore>(x_ + begin, y_ + begin, selected_ + begin / 8, size, part, products_);
    });
  }

  const Bits* const x_;
  Bits* const y_;
  uint8_t* const selected_;
  const int64_t n_, k_;
  const Products<T> products_;
  const Segments& segments_;
  char* const scratch_;
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPLIT_ROW_INL_H_
