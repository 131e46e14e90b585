// The gradients: scaling by a bitmask, and sums over selected entries. Both treat all rows as one.

#ifndef SEPARATIONFACTOR_CORE_CUDA_GRADIENTS_INL_H_
#define SEPARATIONFACTOR_CORE_CUDA_GRADIENTS_INL_H_

#include <cstdint>

#include "core/cuda/device.h"
#include "core/cuda/entries-inl.h"
#include "core/cuda/plan.h"
#include "core/separate.h"

namespace separationfactor {
namespace cuda {
namespace {

constexpr int kGradientThreads = 256;

// The row and column of an element.
struct Position {
  int64_t row;
  int64_t column;

  __device__ static Position Of(int64_t element, int64_t n) {
    // A 32-bit division takes a third of the time of a 64-bit division.
    if (element <= 0xFFFFFFFFll) {
      const auto small = static_cast<uint32_t>(element), size = static_cast<uint32_t>(n);
      return {small / size, small % size};
    }
    return {element / n, element % n};
  }
};

// Returns the bits of `count` elements, starting at `element`, then zeros.
template <int kSize>
__device__ __forceinline__ uint32_t LoadSelected(Pointer<const uint8_t> selected, int64_t element, int64_t count,
                                                 int64_t n) {
  // If rows are whole bytes, the bitmask has no gaps, and a vector's bits lie within one byte.
  if (n % 8 == 0) return selected[element / 8] >> element % 8;
  Position position = Position::Of(element, n);
  Pointer<const uint8_t> row = selected + position.row * BitmaskBytes(n);
  uint32_t bits = 0;
#pragma unroll
  for (int v = 0; v < kSize; ++v) {
    if (v >= count) break;
    bits |= static_cast<uint32_t>(row[position.column / 8] >> position.column % 8 & 1) << v;
    if (++position.column == n) {
      position.column = 0;
      row = row + BitmaskBytes(n);
    }
  }
  return bits;
}

template <class T>
struct ScaleParams {
  using Bits = typename T::Bits;
  int64_t size;  // elements
  int64_t n;
  FactorSource<T> separation, suppression;
  Pointer<const Bits> v;
  Pointer<Bits> out;
  Pointer<const uint8_t> selected;
};

template <class T>
__global__ void __launch_bounds__(kGradientThreads) Scale(ScaleParams<T> p) {
  constexpr int kSize = Vector<T>::kSize;
  const Factors<T> factors(p.separation, p.suppression, true);
  const bool v_is_wide = IsWide(p.v), out_is_wide = IsWide(p.out);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kGradientThreads * kSize;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kGradientThreads + threadIdx.x) * kSize; i < p.size; i += step) {
    const int64_t count = p.size - i;
    const uint32_t selected = LoadSelected<kSize>(p.selected, i, count, p.n);
    Vector<T> vector{};
    // Does not read v if nothing is selected and suppression is zero.
    if (!factors.suppression.IsZero() || (selected & ((1u << kSize) - 1)) != 0) {
      vector = LoadVector<T>(p.v, i, count, v_is_wide);
    }
    factors.Multiply(vector.entries, selected);
    StoreVector<T>(p.out, i, count, out_is_wide, vector);
  }
}

// ---- Sums ----------------------------------------------------------------------------------------------------

// The order of additions is that of SumSelected in core/separate.h.
constexpr int kGroup = 64;
// A block sums 64 groups, and then their sums.
constexpr int kSumBlock = kGroup * kGroup;
constexpr int kSumThreads = 256;

struct Sums {
  double selected, others;
};

// Flushes denormal sums, as the CPU does.
__device__ __forceinline__ double Add(double a, double b) { return Flush(__dadd_rn(a, b)); }

// Sums a group. A lane holds entries `lane` and 32 + `lane` of the group. Lane 0 returns the sum of the selected
// entries, lane 16 the sum of the others.
__device__ __forceinline__ double SumGroup(const Sums& lower, const Sums& upper) {
  const bool is_lower = threadIdx.x % kWarp < kWarp / 2;
  const double selected = Add(lower.selected, upper.selected), others = Add(lower.others, upper.others);
  // Half of the lanes would be idle from here on, so they compute the other sum.
  const double received = __shfl_xor_sync(kAllLanes, is_lower ? others : selected, kWarp / 2);
  double sum = Add(is_lower ? selected : others, received);
#pragma unroll
  for (int half = kWarp / 4; half > 0; half /= 2) sum = Add(sum, __shfl_down_sync(kAllLanes, sum, half));
  return sum;
}

// Sums load(index) for the indices from 0 to kSumBlock - 1. Thread 0 returns the sum of the selected entries, thread 16
// the sum of the others.
template <class Load>
__device__ __forceinline__ double SumBlock(Load load) {
  const auto sums = Shared<double>(0);  // [2, kGroup]: the sums of the groups
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll 2
  for (int group = warp; group < kGroup; group += kSumThreads / kWarp) {
    const double sum = SumGroup(load(group * kGroup + lane), load(group * kGroup + kWarp + lane));
    if (lane % (kWarp / 2) == 0) sums[(lane == 0 ? 0 : kGroup) + group] = sum;
  }
  __syncthreads();
  double sum = 0;
  if (warp == 0) {
    const Sums lower = {sums[lane], sums[kGroup + lane]};
    const Sums upper = {sums[kWarp + lane], sums[kGroup + kWarp + lane]};
    sum = SumGroup(lower, upper);
  }
  __syncthreads();
  return sum;
}
constexpr int kSumSharedBytes = 2 * kGroup * sizeof(double);

template <class T>
struct SumProductsParams {
  using Bits = typename T::Bits;
  int64_t size;  // elements
  int64_t n;
  Pointer<const Bits> u, v;
  Pointer<const uint8_t> selected;
  Pointer<double> sums;  // [2, blocks]
};

template <class T>
__global__ void __launch_bounds__(kSumThreads) SumProducts(SumProductsParams<T> p) {
  const int64_t blocks = CeilDiv(p.size, kSumBlock), bytes = BitmaskBytes(p.n);
  const auto number = [](typename T::Bits bits) { return static_cast<double>(Flush(T::ToNumber(bits))); };
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    // Relative to the start of the block every column fits 32 bits. A 64-bit division is a slow function call.
    const Position begin = Position::Of(block * kSumBlock, p.n);
    // If rows are whole bytes, the bitmask has no gaps.
    const bool is_one_bitmask = p.n % 8 == 0;
    const double sum = SumBlock([&](int index) -> Sums {
      const int64_t i = block * kSumBlock + index;
      if (i >= p.size) return {0, 0};
      const double product = Flush(__dmul_rn(number(p.u[i]), number(p.v[i])));
      int64_t bit = i;
      if (!is_one_bitmask) {
        const auto n = static_cast<uint32_t>(p.n), place = static_cast<uint32_t>(begin.column) + index;
        bit = 8 * bytes * (begin.row + place / n) + place % n;
      }
      const bool is_selected = p.selected[bit / 8] >> bit % 8 & 1;
      return is_selected ? Sums{product, 0} : Sums{0, product};
    });
    if (threadIdx.x == 0) p.sums[block] = sum;
    if (threadIdx.x == kWarp / 2) p.sums[blocks + block] = sum;
  }
}

template <class T>
struct SumSumsParams {
  int64_t size;              // numbers in each of the two rows of `in`
  Pointer<const double> in;  // [2, size]
  Pointer<double> out;       // [2, CeilDiv(size, kSumBlock)]; null in the last launch, which writes
  Pointer<typename T::Bits> selected_sum, others_sum;
};

template <class T>
__device__ __forceinline__ typename T::Bits RoundSum(double sum) {
  // A zero sum is +0, so its sign does not depend on the order of additions.
  return sum == 0 ? typename T::Bits{0} : T::FromNumber(Flush(static_cast<typename T::Number>(sum)));
}

template <class T>
__global__ void __launch_bounds__(kSumThreads) SumSums(SumSumsParams<T> p) {
  const int64_t blocks = CeilDiv(p.size, kSumBlock);
  // At least one block runs, because the sum of no elements must be written too.
  for (int64_t block = blockIdx.x; block < Greater(blocks, 1); block += gridDim.x) {
    const double sum = SumBlock([&](int index) -> Sums {
      const int64_t i = block * kSumBlock + index;
      return i < p.size ? Sums{p.in[i], p.in[p.size + i]} : Sums{0, 0};
    });
    const bool is_others = threadIdx.x == kWarp / 2;
    if (threadIdx.x != 0 && !is_others) continue;
    if (p.out == nullptr) {
      (is_others ? p.others_sum : p.selected_sum)[0] = RoundSum<T>(sum);
    } else {
      p.out[is_others ? blocks + block : block] = sum;
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_GRADIENTS_INL_H_
