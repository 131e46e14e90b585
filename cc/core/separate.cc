#include "core/separate.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/dtypes.h"
#include "core/flush_denormals.h"
#include "core/instruction_set.h"
#include "core/kernels.h"

namespace separationfactor {
namespace {

const Kernels& CurrentKernels() {
#if defined(__x86_64__)
  switch (CurrentInstructionSet()) {
    case InstructionSet::kAvx512:
      return kAvx512Kernels;
    case InstructionSet::kAvx2:
      return kAvx2Kernels;
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kBaselineKernels;
}

// Scratch of one thread: on the stack where it is small.
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

inline bool IsSelected(const uint8_t* selected, int64_t i) { return selected[i / 8] >> i % 8 & 1; }

constexpr int64_t kGroup = 64;

// The sum of a group of 64, upper half on lower; a group that is not full ends in zeros. Overwrites the group.
double SumGroup(double* group, int64_t size) {
  std::fill(group + size, group + kGroup, 0.0);
  for (int64_t half = kGroup / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) group[i] += group[i + half];
  }
  return group[0];
}

// Replaces the numbers by the sums of their groups.
void SumGroups(std::vector<double>& numbers) {
  const int64_t size = static_cast<int64_t>(numbers.size());
  int64_t sums = 0;
  for (int64_t begin = 0; begin < size; begin += kGroup) {
    double group[kGroup];
    const int64_t end = std::min(begin + kGroup, size);
    std::copy(numbers.begin() + begin, numbers.begin() + end, group);
    numbers[sums++] = SumGroup(group, end - begin);
  }
  numbers.resize(sums);
}

double SumByGroups(std::vector<double> numbers) {
  while (numbers.size() > 1) SumGroups(numbers);
  // No order of additions should show in the sign of a zero.
  return numbers.empty() || numbers[0] == 0 ? 0.0 : numbers[0];
}

// Elements that one unit of parallel work sums, to one number: whole groups, twice over.
constexpr int64_t kBlock = kGroup * kGroup;

template <class T>
SelectedSums SumBlock(const SumSelectedArgs& args, int64_t begin) {
  using Bits = typename T::Bits;
  const Bits* u = static_cast<const Bits*>(args.u);
  const Bits* v = static_cast<const Bits*>(args.v);
  const int64_t end = std::min(begin + kBlock, args.rows * args.n);
  int64_t row = begin / args.n;
  int64_t column = begin % args.n;

  double selected_sums[kGroup], other_sums[kGroup];
  int64_t groups = 0;
  for (int64_t group_begin = begin; group_begin < end; group_begin += kGroup) {
    double selected[kGroup], others[kGroup];
    const int64_t size = std::min(kGroup, end - group_begin);
    for (int64_t i = 0; i < size; ++i) {
      const double product =
          static_cast<double>(T::ToNumber(u[group_begin + i])) * static_cast<double>(T::ToNumber(v[group_begin + i]));
      const bool is_selected = IsSelected(args.selected + row * BitmaskBytes(args.n), column);
      selected[i] = is_selected ? product : 0.0;
      others[i] = is_selected ? 0.0 : product;
      if (++column == args.n) column = 0, ++row;
    }
    selected_sums[groups] = SumGroup(selected, size);
    other_sums[groups++] = SumGroup(others, size);
  }
  return {SumGroup(selected_sums, groups), SumGroup(other_sums, groups)};
}

// Rough nanoseconds, for the caller's scheduler: what kernels_benchmark says of AVX-512.
int64_t SeparateRowCost(const SeparateArgs& args) {
  const auto n = static_cast<double>(args.n);
  const double cost = args.k == 1 ? 0.3 * n : 0.5 * n;
  return std::max<int64_t>(1, static_cast<int64_t>(cost));
}
int64_t ScaleRowCost(const ScaleSelectedArgs& args) { return std::max<int64_t>(1, args.n / 5); }
constexpr int64_t kSumCost = 4;

// Entries: about 20 microseconds, what it takes to wake a thread.
constexpr int64_t kMinSegment = 65536;

// Whether rows are split among the threads: where there are fewer than threads, and long enough to be worth it.
bool IsSplit(int64_t rows, int64_t n, int threads) { return rows < threads && n >= 4 * kMinSegment; }

// Several segments a thread, as threads are not equally fast.
int64_t SegmentLength(int64_t n, int threads) {
  const int64_t count = std::clamp<int64_t>(n / kMinSegment, 1, std::min<int64_t>(4 * threads, Segments::kMaxCount));
  const int64_t length = (n + count - 1) / count;
  return (length + Segments::kGranularity - 1) / Segments::kGranularity * Segments::kGranularity;
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
  const Kernels& kernels = CurrentKernels();
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
  const Kernels& kernels = CurrentKernels();
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
  const int64_t blocks = (args.rows * args.n + kBlock - 1) / kBlock;
  std::vector<double> selected(blocks), others(blocks);
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    parallel_for(blocks, kBlock * kSumCost, [&](int64_t begin, int64_t end) {
      const ScopedFlushDenormals flush;
      for (int64_t block = begin; block < end; ++block) {
        const SelectedSums sums = SumBlock<T>(args, block * kBlock);
        selected[block] = sums.selected;
        others[block] = sums.others;
      }
    });
  });
  const ScopedFlushDenormals flush;
  return {SumByGroups(std::move(selected)), SumByGroups(std::move(others))};
}

}  // namespace separationfactor
