#include "core/separate.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/cpu/flush_denormals.h"
#include "core/cpu/instruction_set.h"
#include "core/cpu/kernels.h"
#include "core/types.h"

namespace separationfactor {
namespace {

const Kernels& CurrentKernels(DType dtype) { return KernelsOf(CurrentInstructionSet(), dtype); }

// The scratch of one thread. Small scratch is on the stack.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    if (bytes > static_cast<int64_t>(sizeof(small_))) large_.reset(new char[bytes]);
  }
  void* get() { return large_ ? large_.get() : small_; }

 private:
  alignas(64) char small_[8192];
  std::unique_ptr<char[]> large_;
};

// Approximate nanoseconds for the caller's scheduler, measured by kernels_benchmark with AVX-512.
int64_t SeparateRowCost(const SeparateArgs& args) {
  const auto n = static_cast<double>(args.n);
  const double cost = args.k == 1 ? 0.3 * n : 0.5 * n;
  return std::max<int64_t>(1, static_cast<int64_t>(cost));
}
int64_t ScaleRowCost(const ScaleSelectedArgs& args) { return std::max<int64_t>(1, args.n / 5); }

// Entries. Separating them takes about 20 microseconds, as long as waking a thread.
constexpr int64_t kMinSegment = 65536;

// With fewer rows than threads, long rows are split among threads.
bool IsSplit(int64_t rows, int64_t n, int threads) { return rows < threads && n >= 4 * kMinSegment; }

// Several segments per thread, because threads differ in speed.
int64_t SegmentLength(int64_t n, int threads) {
  const int64_t count = std::clamp<int64_t>(n / kMinSegment, 1, std::min<int64_t>(4 * threads, Segments::kMaxCount));
  const int64_t length = (n + count - 1) / count;
  return (length + Segments::kGranularity - 1) / Segments::kGranularity * Segments::kGranularity;
}

// Sums groups of numbers, then groups of those sums, until one number is left. Adds the upper half of a group, which is
// padded with zeros, to the lower half until one number is left.
double SumByGroups(std::vector<double> numbers) {
  while (numbers.size() > 1) {
    const size_t groups = (numbers.size() + kSumGroup - 1) / kSumGroup;
    numbers.resize(groups * kSumGroup);
    for (size_t i = 0; i < groups; ++i) {
      double* group = numbers.data() + i * kSumGroup;
      for (int half = kSumGroup / 2; half > 0; half /= 2) {
        for (int j = 0; j < half; ++j) group[j] += group[j + half];
      }
      numbers[i] = group[0];
    }
    numbers.resize(groups);
  }
  // A zero sum is +0, so its sign does not depend on the order of additions.
  return numbers.empty() || numbers[0] == 0 ? 0.0 : numbers[0];
}

struct SegmentPool {
  const ParallelFor& parallel_for;
  int64_t count;
  int64_t cost;

  static void Run(void* pointer, void (*work)(void* context, int64_t segment), void* context) {
    const auto& pool = *static_cast<SegmentPool*>(pointer);
    pool.parallel_for(pool.count, pool.cost, [&](int64_t begin, int64_t end) {
      const ScopedFlushDenormals flush;
      for (int64_t segment = begin; segment < end; ++segment) work(context, segment);
    });
  }
};

}  // namespace

void Separate(const SeparateArgs& args, const ParallelFor& parallel_for) {
  const Kernels& kernels = CurrentKernels(args.dtype);
  if (IsSplit(args.rows, args.n, args.threads)) {
    const int64_t length = SegmentLength(args.n, args.threads);
    SegmentPool pool{parallel_for, (args.n + length - 1) / length, length / 2};
    const Segments segments{pool.count, length, &pool, SegmentPool::Run};
    const ScopedFlushDenormals flush;
    Scratch scratch(ScratchBytes(args) + segments.count * kScratchSlack);
    for (int64_t row = 0; row < args.rows; ++row) kernels.separate_split(args, row, segments, scratch.get());
    return;
  }
  parallel_for(args.rows, SeparateRowCost(args), [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    Scratch scratch(ScratchBytes(args));
    kernels.separate(args, begin, end, scratch.get());
  });
}

void ScaleSelected(const ScaleSelectedArgs& args, const ParallelFor& parallel_for) {
  const Kernels& kernels = CurrentKernels(args.dtype);
  if (IsSplit(args.rows, args.n, args.threads)) {
    const int64_t length = SegmentLength(args.n, args.threads), count = (args.n + length - 1) / length;
    const int64_t size = ElementBytes(args.dtype);
    parallel_for(args.rows * count, length / 5, [&](int64_t begin, int64_t end) {
      const ScopedFlushDenormals flush;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / count, column = i % count * length;
        ScaleSelectedArgs part = args;
        part.rows = 1;
        part.n = std::min(length, args.n - column);
        part.v = static_cast<const char*>(args.v) + (row * args.n + column) * size;
        part.out = static_cast<char*>(args.out) + (row * args.n + column) * size;
        part.selected = args.selected + row * BitmaskBytes(args.n) + column / 8;
        kernels.scale(part, 0, 1);
      }
    });
    return;
  }
  parallel_for(args.rows, ScaleRowCost(args), [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    kernels.scale(args, begin, end);
  });
}

SelectedSums SumSelected(const SumSelectedArgs& args, const ParallelFor& parallel_for) {
  const Kernels& kernels = CurrentKernels(args.dtype);
  const int64_t blocks = (args.rows * args.n + kSumBlock - 1) / kSumBlock;
  std::vector<double> selected(blocks), others(blocks);
  parallel_for(blocks, kSumBlock / 2, [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    for (int64_t block = begin; block < end; ++block) {
      const SelectedSums sums = kernels.sum_block(args, block);
      selected[block] = sums.selected;
      others[block] = sums.others;
    }
  });
  const ScopedFlushDenormals flush;
  return {SumByGroups(std::move(selected)), SumByGroups(std::move(others))};
}

}  // namespace separationfactor
