// SumSelected. separate.h documents the order of additions.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/cpu/flush_denormals.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace {

inline bool IsSelected(const uint8_t* selected, int64_t i) { return selected[i / 8] >> i % 8 & 1; }

constexpr int64_t kGroup = 64;

// Returns the sum of a group of 64, padded with zeros after `size`. Adds the upper half to the lower half until one
// number is left. Overwrites the group.
double SumGroup(double* group, int64_t size) {
  std::fill(group + size, group + kGroup, 0.0);
  for (int64_t half = kGroup / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) group[i] += group[i + half];
  }
  return group[0];
}

// Replaces the numbers with the sums of their groups.
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
  // A zero sum is +0, so its sign does not depend on the order of additions.
  return numbers.empty() || numbers[0] == 0 ? 0.0 : numbers[0];
}

// Elements that one unit of parallel work sums to one number: a full group of full groups.
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

// Approximate nanoseconds per element for the caller's scheduler.
constexpr int64_t kSumCost = 4;

}  // namespace

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
