// Separates short rows in registers: one thread per row, or some lanes of a warp per row.

#ifndef SEPARATIONFACTOR_CORE_CUDA_SHORT_ROWS_INL_H_
#define SEPARATIONFACTOR_CORE_CUDA_SHORT_ROWS_INL_H_

#include <cstdint>

#include "core/cuda/device.h"
#include "core/cuda/entries-inl.h"
#include "core/cuda/plan.h"
#include "core/separate.h"

namespace separationfactor {
namespace cuda {
namespace {

template <class T>
struct RowsParams {
  using Bits = typename T::Bits;
  int64_t rows;
  int32_t n;
  KSource k;
  FactorSource<T> separation, suppression;
  Bits score_mask;
  Pointer<const Bits> x;
  Pointer<Bits> y;
  Pointer<uint8_t> selected;

  // Reads k. If it is invalid, returns 0, so nothing is selected, and Factors makes every product NaN.
  __device__ uint32_t ReadK(bool* is_valid) const {
    const int64_t value = k.Read();
    *is_valid = 0 <= value && value <= n;
    return *is_valid ? static_cast<uint32_t>(value) : 0;
  }
};

// ---- One thread per row --------------------------------------------------------------------------------------

// The distance between rows in shared memory, in entries. It is an odd number of words (float64: of entries), so
// threads that read the same column do not conflict on a bank.
template <class Bits>
SEPARATIONFACTOR_HOST_DEVICE constexpr int RowPitch(int n) {
  return sizeof(Bits) == 2 ? 2 * ((n + 1) / 2 | 1) : n | 1;
}

// Copies rows between device memory, where they have no gaps, and shared memory. All threads must call it.
template <class T, bool kToShared>
__device__ __forceinline__ void CopyRows(Pointer<typename T::Bits> shared, Pointer<typename T::Bits> out,
                                         Pointer<const typename T::Bits> in, int rows, int n) {
  constexpr int kSize = Vector<T>::kSize;
  const int pitch = RowPitch<typename T::Bits>(n), total = rows * n;
  const bool is_wide = kToShared ? IsWide(in) : IsWide(out);
  for (int i = threadIdx.x * kSize; i < total; i += kWarpPathThreads * kSize) {
    int row = i / n, column = i % n;
    Vector<T> vector;
    if (kToShared) vector = LoadVector<T>(in, i, total - i, is_wide);
#pragma unroll
    for (int v = 0; v < kSize; ++v) {
      if (i + v < total) {
        if (kToShared) {
          shared[row * pitch + column] = vector.entries[v];
        } else {
          vector.entries[v] = shared[row * pitch + column];
        }
      }
      if (++column == n) column = 0, ++row;
    }
    if (!kToShared) StoreVector<T>(out, i, total - i, is_wide, vector);
  }
}

// The minimum number of blocks per multiprocessor, for __launch_bounds__. By default ptxas aims at more blocks and
// spills, or uses two registers more, which costs a block.
template <class T, int kMaxN>
constexpr int ThreadPathBlocks() {
  const int bytes = sizeof(typename T::Bits);
  if (kMaxN > 16) return bytes == 8 ? 3 : 1;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (bytes == 2) return 5;
#endif
  return bytes == 8 ? 1 : 6;
}

// Ranks entries by comparing all pairs: n^2 / 2 comparisons without divergent branches. kMaxN is the largest n and sets
// the number of registers.
template <class T, int kMaxN>
__global__ void __launch_bounds__(kThreadPathThreads, ThreadPathBlocks<T, kMaxN>()) SeparateByThread(RowsParams<T> p) {
  using Bits = typename T::Bits;
  const int n = p.n;
  const int bytes = static_cast<int>(BitmaskBytes(n));
  bool k_is_valid;
  const uint32_t k = p.ReadK(&k_is_valid);
  const Factors<T> factors(p.separation, p.suppression, k_is_valid);
  const auto tile = Shared<Bits>(0);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kThreadPathThreads; first < p.rows;
       first += static_cast<int64_t>(gridDim.x) * kThreadPathThreads) {
    const int rows = static_cast<int>(Smaller(kThreadPathThreads, p.rows - first));
    CopyRows<T, true>(tile, p.y + first * n, p.x + first * n, rows, n);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < rows) {
      const auto row = tile + threadIdx.x * RowPitch<Bits>(n);
      Bits keys[kMaxN];
      uint32_t ranks[kMaxN];
#pragma unroll
      for (int i = 0; i < kMaxN; ++i) {
        if (i >= n) break;
        keys[i] = KeyOf<T>(row[i], p.score_mask);
        ranks[i] = 0;
#pragma unroll
        for (int j = 0; j < i; ++j) {
          // Of two tied entries the first has the lower rank.
          const bool is_behind = keys[j] >= keys[i];
          ranks[i] += is_behind ? 1 : 0;
          ranks[j] += is_behind ? 0 : 1;
        }
      }
      uint32_t selected = 0;
#pragma unroll
      for (int i = 0; i < kMaxN; ++i) {
        if (i >= n) break;
        const bool is_selected = ranks[i] < k;
        selected |= static_cast<uint32_t>(is_selected) << i;
        row[i] = factors.Product(row[i], is_selected);
      }
      const auto out = p.selected + (first + threadIdx.x) * bytes;
      for (int byte = 0; byte < bytes; ++byte) out[byte] = static_cast<uint8_t>(selected >> (8 * byte));
    }
    __syncthreads();
    CopyRows<T, false>(tile, p.y + first * n, p.x + first * n, rows, n);
    __syncthreads();
  }
}

// ---- Lanes of a warp per row ---------------------------------------------------------------------------------

template <class T>
struct WarpRowsParams {
  RowsParams<T> rows;
  int lanes;  // lanes per row: 4, 8, 16 or 32
};

// Returns the sum over the lanes of a row, in every lane.
__device__ __forceinline__ uint32_t SumOverLanes(uint32_t number, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) number += __shfl_xor_sync(kAllLanes, number, step);
  return number;
}

// The entries stay in registers from the single read of x to the write of y. The k-th greatest key is found bit by bit
// from the top: a bit is set if at least k keys are at or above the resulting pivot. The search ends when exactly k
// are. For distinct scores it takes about log2(range of the keys / distance between two keys) steps.
template <class T, int kEntries>
__global__ void __launch_bounds__(kWarpPathThreads, 1) SeparateByWarp(WarpRowsParams<T> params) {
  using Bits = typename T::Bits;
  constexpr int kSize = Vector<T>::kSize, kVectors = kEntries / kSize;
  const RowsParams<T>& p = params.rows;
  const int n = p.n, lanes = params.lanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int lane_of_row = lane % lanes, rows_of_warp = kWarp / lanes;
  const uint32_t lanes_of_row = (lanes == kWarp ? kAllLanes : (1u << lanes) - 1) << (lane - lane_of_row);
  const uint32_t lanes_before = lanes_of_row & ((1u << lane) - 1);
  bool k_is_valid;
  const uint32_t k = p.ReadK(&k_is_valid);
  const Factors<T> factors(p.separation, p.suppression, k_is_valid);

  constexpr int kWarps = kWarpPathThreads / kWarp;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t first = warp * rows_of_warp; first < p.rows; first += warps * rows_of_warp) {
    // Lanes beyond the last row process an empty row, because the whole warp takes part in collectives.
    const int64_t row = first + lane / lanes;
    const int size = row < p.rows ? n : 0;
    const auto x = p.x + (row < p.rows ? row : 0) * n;
    const bool x_is_wide = IsWide(x);
    Vector<T> vectors[kVectors];
    Bits keys[kEntries];
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int i = (j * lanes + lane_of_row) * kSize;
      vectors[j] = LoadVector<T>(x, i, size - i, x_is_wide);
    }
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int i = (j * lanes + lane_of_row) * kSize;
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        // No key is 0, so missing entries rank below all others.
        keys[j * kSize + v] = i + v < size ? KeyOf<T>(vectors[j].entries[v], p.score_mask) : Bits{0};
      }
    }

    // The k-th greatest key, or a pivot with exactly k keys at or above it.
    Bits threshold = 0;
    uint32_t not_below = size;
    bool is_found = k == 0 || static_cast<uint32_t>(size) <= k;
    for (Bits bit = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1)); bit != 0; bit >>= 1) {
      if (__ballot_sync(kAllLanes, !is_found) == 0) break;
      const Bits pivot = threshold | bit;
      uint32_t count = 0;
#pragma unroll
      for (int i = 0; i < kEntries; ++i) count += keys[i] >= pivot ? 1 : 0;
      count = SumOverLanes(count, lanes);
      if (!is_found && count >= k) {
        threshold = pivot;
        not_below = count;
        is_found = count == k;
      }
    }

    // The number of selected entries that equal the threshold, the first ones of the row.
    if (k == 0) threshold = static_cast<Bits>(~Bits{0});
    const bool has_ties = k == 0 || not_below > k;
    uint32_t quota = not_below;
    const bool any_has_ties = __ballot_sync(kAllLanes, has_ties) != 0;
    if (any_has_ties) {
      uint32_t above = 0;
#pragma unroll
      for (int i = 0; i < kEntries; ++i) above += keys[i] > threshold ? 1 : 0;
      above = SumOverLanes(above, lanes);
      if (has_ties) quota = k - above;
    }

    const auto y = p.y + (row < p.rows ? row : 0) * n;
    const auto selected_row = p.selected + (row < p.rows ? row : 0) * BitmaskBytes(n);
    const bool y_is_wide = IsWide(y);
    uint32_t equal_before = 0;  // ties in earlier vectors
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int i = (j * lanes + lane_of_row) * kSize;
      uint32_t rank = equal_before;  // the rank of this lane's next tie
      if (any_has_ties) {
#pragma unroll
        for (int v = 0; v < kSize; ++v) {
          const uint32_t equal = __ballot_sync(kAllLanes, keys[j * kSize + v] == threshold);
          rank += __popc(equal & lanes_before);
          equal_before += __popc(equal & lanes_of_row);
        }
      }
      uint32_t selected = 0;
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        const Bits key = keys[j * kSize + v];
        bool is_selected = key >= threshold;
        if (any_has_ties && key == threshold) is_selected = rank++ < quota;
        is_selected = is_selected && i + v < size;
        selected |= static_cast<uint32_t>(is_selected) << v;
      }
      factors.Multiply(vectors[j].entries, selected);
      StoreVector<T>(y, i, size - i, y_is_wide, vectors[j]);
      StoreSelected<T>(selected_row, i, size, selected);
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_SHORT_ROWS_INL_H_
