// The gradients: scaling by a bitmask, and sums over what it selects. Both take all rows as one.

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

// Where an element lies, of rows without gaps.
struct Position {
  int64_t row;
  int64_t column;

  __device__ static Position Of(int64_t element, int64_t n) {
    // Division in 32 bits takes a third of the time.
    if (element <= 0xFFFFFFFFll) {
      const auto small = static_cast<uint32_t>(element), size = static_cast<uint32_t>(n);
      return {small / size, small % size};
    }
    return {element / n, element % n};
  }
};

// The bits of `count` elements from one on, zeros after them.
template <int kSize>
__device__ __forceinline__ uint32_t LoadSelected(Pointer<const uint8_t> selected, int64_t element, int64_t count,
                                                 int64_t n) {
  // Rows of whole bytes make one long bitmask; a vector is never more than a byte of it.
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
    // v is not read at all where nothing is selected and the others become zeros.
    if (!factors.suppression.IsZero() || (selected & ((1u << kSize) - 1)) != 0) {
      vector = LoadVector<T>(p.v, i, count, v_is_wide);
    }
    factors.Multiply(vector.entries, selected);
    StoreVector<T>(p.out, i, count, out_is_wide, vector);
  }
}

// ---- Sums ----------------------------------------------------------------------------------------------------

// What core/separate.h documents: groups of 64 are summed upper half on lower, and so are their sums, and so on.
constexpr int kGroup = 64;
// A block sums groups twice over: 64 of them.
constexpr int kSumBlock = kGroup * kGroup;
constexpr int kSumThreads = 256;

struct Sums {
  double selected, others;
};

// Subnormal sums are zeros, as they are on a CPU that flushes them.
__device__ __forceinline__ double Add(double a, double b) { return Flush(__dadd_rn(a, b)); }

// The sums of a group. The lane has its entries number `lane` and 32 + `lane`. Lane 0 gets the sum of the selected
// ones, lane 16 that of the others.
__device__ __forceinline__ double SumGroup(const Sums& lower, const Sums& upper) {
  const bool is_lower = threadIdx.x % kWarp < kWarp / 2;
  const double selected = Add(lower.selected, upper.selected), others = Add(lower.others, upper.others);
  // From here on half the lanes would be idle, so these take the other sum.
  const double received = __shfl_xor_sync(kAllLanes, is_lower ? others : selected, kWarp / 2);
  double sum = Add(is_lower ? selected : others, received);
#pragma unroll
  for (int half = kWarp / 4; half > 0; half /= 2) sum = Add(sum, __shfl_down_sync(kAllLanes, sum, half));
  return sum;
}

// Sums what `load` gives for indices from 0 to kSumBlock - 1. Thread 0 gets the sum of the selected ones, thread 16
// that of the others.
template <class Load>
__device__ __forceinline__ double SumBlock(Load load) {
  const auto sums = Shared<double>(0);  // [2, kGroup]: of the groups
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
    // From where the block begins, 32 bits hold every column: a division in 64 bits is a call, and dear.
    const Position begin = Position::Of(block * kSumBlock, p.n);
    // Rows of whole bytes make one long bitmask.
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
  int64_t size;              // of each of the two
  Pointer<const double> in;  // [2, size]
  Pointer<double> out;       // [2, CeilDiv(size, kSumBlock)]; null for the last sums, which go to
  Pointer<typename T::Bits> selected_sum, others_sum;
};

template <class T>
__device__ __forceinline__ typename T::Bits RoundSum(double sum) {
  // No order of additions should show in the sign of a zero.
  return sum == 0 ? typename T::Bits{0} : T::FromNumber(Flush(static_cast<typename T::Number>(sum)));
}

template <class T>
__global__ void __launch_bounds__(kSumThreads) SumSums(SumSumsParams<T> p) {
  const int64_t blocks = CeilDiv(p.size, kSumBlock);
  // Of nothing the sum is zero: one block must say so.
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
