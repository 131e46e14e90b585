#include "core/separate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/dtypes.h"
#include "core/flush_denormals.h"

namespace separationfactor {
namespace {

// One factor as the kernels use it. A denormal factor is zero, as flush-to-zero has it; the comparison does
// not lean on the mode, which a compiler may set before or after it.
template <class T>
class Factor {
 public:
  explicit Factor(double factor)
      : number_(static_cast<Number>(factor)), is_zero_(std::abs(factor) < std::numeric_limits<Number>::min()) {}

  typename T::Bits operator*(typename T::Bits bits) const {
    return is_zero_ ? 0 : T::FromNumber(T::ToNumber(bits) * number_);
  }

 private:
  using Number = typename T::Number;
  Number number_;
  bool is_zero_;
};

// The key of the k-th greatest score of a row and how many of the entries that have it are selected: all
// entries above it are, and the first `at_threshold` of those at it.
template <class Bits>
struct Threshold {
  Bits key;
  int64_t at_threshold;
};

// 1 <= k <= n. Overwrites `keys`, the row's keys. Linear in n on average (introselect).
template <class Bits>
Threshold<Bits> FindThreshold(std::vector<Bits>& keys, int64_t k) {
  const auto kth = keys.begin() + (k - 1);
  std::nth_element(keys.begin(), kth, keys.end(), std::greater<Bits>());
  // nth_element leaves the k - 1 greatest before the k-th, in some order.
  const int64_t above = (k - 1) - std::count(keys.begin(), kth, *kth);
  return {*kth, k - above};
}

template <class T, Score kScore>
void SeparateRows(const SeparateArgs& args, int64_t begin, int64_t end) {
  using Bits = typename T::Bits;
  const ScopedFlushDenormals flush;
  const Factor<T> separation(args.separation);
  const Factor<T> suppression(args.suppression);
  std::vector<Bits> keys(args.k > 0 ? args.n : 0);

  for (int64_t row = begin; row < end; ++row) {
    const Bits* x = static_cast<const Bits*>(args.x) + row * args.n;
    Bits* y = static_cast<Bits*>(args.y) + row * args.n;
    uint8_t* selected = args.selected + row * BitmaskBytes(args.n);

    // With k = 0 no key passes: none is above the greatest, and none at it is let in.
    Threshold<Bits> threshold{static_cast<Bits>(~Bits{0}), 0};
    if (args.k > 0) {
      std::transform(x, x + args.n, keys.begin(), Key<T, kScore>);
      threshold = FindThreshold(keys, args.k);
    }

    std::fill_n(selected, BitmaskBytes(args.n), uint8_t{0});
    for (int64_t i = 0; i < args.n; ++i) {
      const Bits key = Key<T, kScore>(x[i]);
      const bool is_selected = key > threshold.key || (key == threshold.key && threshold.at_threshold-- > 0);
      selected[i / 8] |= static_cast<uint8_t>(is_selected << i % 8);
      y[i] = is_selected ? separation * x[i] : suppression * x[i];
    }
  }
}

inline bool IsSelected(const uint8_t* selected, int64_t i) { return selected[i / 8] >> i % 8 & 1; }

template <class T>
void ScaleRows(const ScaleSelectedArgs& args, int64_t begin, int64_t end) {
  using Bits = typename T::Bits;
  const ScopedFlushDenormals flush;
  const Factor<T> separation(args.separation);
  const Factor<T> suppression(args.suppression);
  for (int64_t row = begin; row < end; ++row) {
    const Bits* v = static_cast<const Bits*>(args.v) + row * args.n;
    Bits* out = static_cast<Bits*>(args.out) + row * args.n;
    const uint8_t* selected = args.selected + row * BitmaskBytes(args.n);
    for (int64_t i = 0; i < args.n; ++i) {
      out[i] = IsSelected(selected, i) ? separation * v[i] : suppression * v[i];
    }
  }
}

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

// Rough nanoseconds an element costs, for the caller's scheduler.
constexpr int64_t kSeparateCost = 8, kScaleCost = 1, kSumCost = 4;

int64_t RowCost(int64_t n, int64_t cost) { return std::max<int64_t>(1, n * cost); }

}  // namespace

void Separate(const SeparateArgs& args, const ParallelFor& parallel_for) {
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    const auto rows = args.score == Score::kValue ? SeparateRows<T, Score::kValue> : SeparateRows<T, Score::kMagnitude>;
    parallel_for(args.rows, RowCost(args.n, kSeparateCost),
                 [&](int64_t begin, int64_t end) { rows(args, begin, end); });
  });
}

void ScaleSelected(const ScaleSelectedArgs& args, const ParallelFor& parallel_for) {
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    parallel_for(args.rows, RowCost(args.n, kScaleCost),
                 [&](int64_t begin, int64_t end) { ScaleRows<T>(args, begin, end); });
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
