// Separates longer rows by radix selection: one block per row, or several blocks per row.

#ifndef SEPARATIONFACTOR_CORE_CUDA_RADIX_ROWS_INL_H_
#define SEPARATIONFACTOR_CORE_CUDA_RADIX_ROWS_INL_H_

#include <cstdint>

#include "core/cuda/device.h"
#include "core/cuda/entries-inl.h"
#include "core/cuda/plan.h"
#include "core/cuda/short_rows-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace cuda {
namespace {

// ---- The cut -------------------------------------------------------------------------------------------------

// The state of a row's selection. Entries rank by key and, if keys tie, by place, which is n - 1 - index: the lowest
// index has the greatest place. Therefore no two entries rank the same, and the order in which ties are read does not
// matter.
//
// The cut lies in a class: the entries that agree in the leading bits of (key, place). Entries that rank above the
// class are selected, entries below it are not, and `wanted` entries of the class are. Each counted digit narrows the
// class.
template <class T>
struct Cut {
  using Bits = typename T::Bits;
  Bits key, last_key;          // the first and last key of the class
  uint32_t place, last_place;  // the first and last place of the class
  int32_t key_bits;            // trailing bits in which the keys may differ
  int32_t place_bits;          // trailing bits in which the places may differ
  uint32_t wanted;             // selected entries of the class
  uint32_t count;              // entries of the class

  // The cut before any digit is counted: the class is the whole row.
  static __device__ Cut OfRow(uint32_t n, uint32_t k) {
    return {Bits{0}, static_cast<Bits>(~Bits{0}), 0, ~0u, 8 * sizeof(Bits), kWarp - __clz(static_cast<int>(n - 1)), k,
            n};
  }

  // Whether all of the class is selected, or nothing. `wanted` is 0 only if k is 0.
  __device__ __forceinline__ bool IsSettled() const { return wanted == 0 || wanted == count; }

  __device__ __forceinline__ bool HasKey(Bits entry_key) const { return key <= entry_key && entry_key <= last_key; }
  __device__ __forceinline__ bool Has(Bits entry_key, uint32_t entry_place) const {
    return HasKey(entry_key) && HasPlace(entry_place);
  }
  __device__ __forceinline__ bool HasPlace(uint32_t entry_place) const {
    return place <= entry_place && entry_place <= last_place;
  }
  // Whether the entry is selected. If the cut is not settled: whether the entry is certain to be selected.
  __device__ __forceinline__ bool Selects(Bits entry_key, uint32_t entry_place) const {
    return entry_key > last_key || (HasKey(entry_key) && SelectsInClass(entry_place));
  }
  // Same as Selects, for an entry with a key of the class.
  __device__ __forceinline__ bool SelectsInClass(uint32_t entry_place) const {
    return entry_place > last_place || (entry_place >= place && wanted == count);
  }
  // Returns one bit per entry of a vector: whether it is certain to be selected. Sets `in_class` to the entries with
  // keys of the class. `first_place` is the place of the first entry. Places are compared only if a key is in the
  // class, which is rare.
  template <int kSize>
  __device__ __forceinline__ uint32_t SelectsOf(const Bits (&keys)[kSize], uint32_t first_place,
                                                uint32_t* in_class) const {
    uint32_t selected = 0, has_key = 0;
#pragma unroll
    for (int v = 0; v < kSize; ++v) {
      selected |= static_cast<uint32_t>(keys[v] > last_key) << v;
      has_key |= static_cast<uint32_t>(keys[v] >= key) << v;
    }
    has_key &= ~selected;
    if (has_key != 0) {
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        selected |= (has_key >> v & static_cast<uint32_t>(SelectsInClass(first_place - v))) << v;
      }
    }
    *in_class = has_key;
    return selected;
  }

  // Returns the next digit of an entry in the class.
  __device__ __forceinline__ uint32_t Digit(Bits entry_key, uint32_t entry_place) const {
    if (key_bits > 0) return static_cast<uint32_t>((entry_key - key) >> OpenBits(key_bits));
    return (entry_place - place) >> OpenBits(place_bits);
  }
  // Narrows the class to the entries with this digit. `above` entries of the class have a greater digit, and `in_digit`
  // entries have this one.
  __device__ __forceinline__ void Narrow(uint32_t digit, uint32_t above, uint32_t in_digit) {
    wanted -= above;
    count = in_digit;
    if (key_bits > 0) {
      key_bits = OpenBits(key_bits);
      key = static_cast<Bits>(key | static_cast<Bits>(static_cast<Bits>(digit) << key_bits));
      last_key = static_cast<Bits>(key | ((Bits{1} << key_bits) - 1));
    } else {
      place_bits = OpenBits(place_bits);
      place |= digit << place_bits;
      last_place = place | ((1u << place_bits) - 1);
    }
  }

 private:
  // Returns the number of bits below the next digit.
  static __device__ __forceinline__ int32_t OpenBits(int32_t bits) { return bits > kDigitBits ? bits - kDigitBits : 0; }
};

// Returns kSize bits of which the first `count` are set.
template <int kSize>
__device__ __forceinline__ uint32_t FirstBits(int64_t count) {
  return count >= kSize ? (1u << kSize) - 1 : count > 0 ? (1u << count) - 1 : 0;
}

// The shared memory of a block for counting digits.
struct RadixMemory {
  Pointer<uint32_t> counts;    // entries with each digit
  Pointer<uint32_t> exchange;  // kExchangeBytes

  static __device__ RadixMemory At(int offset) {
    return {Shared<uint32_t>(offset), Shared<uint32_t>(offset + kDigits * 4)};
  }

  // All threads must call it, and a barrier must follow.
  __device__ __forceinline__ void Clear() const {
    for (int digit = threadIdx.x; digit < kDigits; digit += blockDim.x) counts[digit] = 0;
  }
};

// Narrows the class by the counts of digits, which are in shared or device memory. All threads must call it with the
// same cut, and get the same cut. The counts may be cleared as soon as it returns.
template <class T>
__device__ __forceinline__ void NarrowByCounts(Pointer<const uint32_t> counts, Pointer<uint32_t> exchange,
                                               Cut<T>& cut) {
  // Each thread handles a few digits. The first thread handles the greatest.
  const int per_thread = kDigits / static_cast<int>(blockDim.x);
  const int greatest = kDigits - 1 - static_cast<int>(threadIdx.x) * per_thread;
  uint32_t sum = 0;
  for (int i = 0; i < per_thread; ++i) sum += counts[greatest - i];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  uint32_t sum_to_here = sum;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint32_t before = __shfl_up_sync(kAllLanes, sum_to_here, step);
    if (lane >= step) sum_to_here += before;
  }
  if (lane == kWarp - 1) exchange[warp] = sum_to_here;
  __syncthreads();
  // Adds the sums of the warps before this one, one per lane.
  uint32_t above = SumOverLanes(lane < warp ? exchange[lane] : 0u, kWarp) + sum_to_here - sum;
  constexpr int kResult = kMaxBlockThreads / kWarp;
  // Exactly one thread finds the cut among its digits.
  if (above < cut.wanted && cut.wanted <= above + sum) {
    int digit = greatest;
    uint32_t in_digit = counts[digit];
    while (above + in_digit < cut.wanted) {
      above += in_digit;
      in_digit = counts[--digit];
    }
    exchange[kResult] = static_cast<uint32_t>(digit);
    exchange[kResult + 1] = above;
    exchange[kResult + 2] = in_digit;
  }
  __syncthreads();
  cut.Narrow(exchange[kResult], exchange[kResult + 1], exchange[kResult + 2]);
}

// ---- One block per row ---------------------------------------------------------------------------------------

// The row stays in shared memory from the single read of x to the write of y.
template <class T>
__global__ void __launch_bounds__(kMaxBlockThreads) SeparateByBlock(RowsParams<T> p) {
  using Bits = typename T::Bits;
  constexpr int kSize = Vector<T>::kSize;
  const int n = p.n;
  const int vectors = (n + kSize - 1) / kSize;
  const auto row_memory = Shared<uint4>(0);
  const RadixMemory memory = RadixMemory::At(vectors * 16);
  bool k_is_valid;
  const uint32_t k = p.ReadK(&k_is_valid);
  const Factors<T> factors(p.separation, p.suppression, k_is_valid);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);

  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    Cut<T> cut = Cut<T>::OfRow(n, k);
    memory.Clear();
    __syncthreads();
    const auto x = p.x + row * n;
    const bool x_is_wide = IsWide(x);
    for (int u = thread; u < vectors; u += threads) {
      const Vector<T> vector = LoadVector<T>(x, u * kSize, n - u * kSize, x_is_wide);
      row_memory[u] = BitCast<uint4>(vector);
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        const int i = u * kSize + v;
        if (i < n) atomicAdd(memory.counts + cut.Digit(KeyOf<T>(vector.entries[v], p.score_mask), n - 1 - i), 1u);
      }
    }
    __syncthreads();
    while (!cut.IsSettled()) {
      NarrowByCounts(memory.counts, memory.exchange, cut);
      if (cut.IsSettled()) break;
      memory.Clear();
      __syncthreads();
      for (int u = thread; u < vectors; u += threads) {
        const auto vector = BitCast<Vector<T>>(static_cast<uint4>(row_memory[u]));
#pragma unroll
        for (int v = 0; v < kSize; ++v) {
          const int i = u * kSize + v;
          const Bits key = KeyOf<T>(vector.entries[v], p.score_mask);
          if (i < n && cut.Has(key, n - 1 - i)) atomicAdd(memory.counts + cut.Digit(key, n - 1 - i), 1u);
        }
      }
      __syncthreads();
    }

    const auto y = p.y + row * n;
    const auto selected_row = p.selected + row * BitmaskBytes(n);
    const bool y_is_wide = IsWide(y);
    // All lanes of a warp take part in every iteration, because together they form bytes of the bitmask.
    for (int begin = 0; begin < vectors; begin += threads) {
      const int u = begin + thread, i = u * kSize;
      uint32_t selected = 0;
      if (u < vectors) {
        auto vector = BitCast<Vector<T>>(static_cast<uint4>(row_memory[u]));
        Bits keys[kSize];
#pragma unroll
        for (int v = 0; v < kSize; ++v) keys[v] = KeyOf<T>(vector.entries[v], p.score_mask);
        uint32_t in_class;
        selected = cut.SelectsOf(keys, n - 1 - i, &in_class) & FirstBits<kSize>(n - i);
        factors.Multiply(vector.entries, selected);
        StoreVector<T>(y, i, n - i, y_is_wide, vector);
      }
      StoreSelected<T>(selected_row, i, n, selected);
    }
    __syncthreads();
  }
}

// ---- Several blocks per row ----------------------------------------------------------------------------------

// Each point where blocks would have to wait for each other is a separate launch:
//
//   * CountDigits reads x for the first digit. For each further digit of the key, and for the first digit of the
//     place, it reads x again if the class exceeds the list of candidates. This happens only with ties or with scores
//     that are very close to each other. Otherwise its blocks return at once.
//   * WriteDecided reads x, writes y and the bitmask as if none of the class were selected, and adds the class to the
//     list of candidates.
//   * WriteCandidates selects among the candidates, and corrects y and the bitmask for the selected ones.
template <class T>
struct SplitParams {
  using Bits = typename T::Bits;
  RowsParams<T> rows;  // the rows of one batch
  int64_t segment;     // entries of a segment
  int32_t segments;    // segments of a row
  int32_t digit;       // digits counted so far
  uint32_t max_count;  // capacity of a row's list of candidates
  // Scratch, for each row.
  Pointer<uint32_t> counts;             // [digits, rows, kDigits], initially zero
  Pointer<uint32_t> candidate_counts;   // [rows], initially zero
  Pointer<Cut<T>> cuts;                 // [digits + 1, rows]
  Pointer<uint32_t> candidate_indices;  // [rows, max_count]
  Pointer<Bits> candidates;             // [rows, max_count]

  // Whether a class is too large for the list of candidates, so that another digit must be counted.
  __device__ __forceinline__ bool IsCounted(const Cut<T>& cut) const {
    return !cut.IsSettled() && cut.count > max_count;
  }

  // Calls function(entry, index) for `count` candidates of a row, split among the threads of a block. Each thread
  // issues the loads of several candidates at once, because no other block hides their latency.
  template <class Function>
  __device__ __forceinline__ void ForEachCandidate(int64_t row, uint32_t count, Function function) const {
    constexpr int kAtOnce = 4;
    const auto row_indices = candidate_indices + row * max_count;
    const auto row_candidates = candidates + row * max_count;
    for (uint32_t begin = threadIdx.x; begin < count; begin += kAtOnce * kCandidateThreads) {
      Bits entries[kAtOnce];
      uint32_t indices[kAtOnce];
#pragma unroll
      for (uint32_t j = 0; j < kAtOnce; ++j) {
        const uint32_t candidate = begin + j * kCandidateThreads;
        if (candidate >= count) break;
        entries[j] = row_candidates[candidate];
        indices[j] = row_indices[candidate];
      }
#pragma unroll
      for (uint32_t j = 0; j < kAtOnce; ++j) {
        if (begin + j * kCandidateThreads >= count) break;
        function(entries[j], indices[j]);
      }
    }
  }

  // Returns the cut of a row after the digits counted so far. All threads must call it. Starts from the cut and the
  // counts of the previous launch.
  __device__ __forceinline__ Cut<T> CutOf(int64_t row, bool is_first_segment, uint32_t k,
                                          Pointer<uint32_t> exchange) const {
    Cut<T> cut = Cut<T>::OfRow(rows.n, k);
    if (digit > 0) {
      const int64_t before = (digit - 1) * rows.rows + row;
      cut = cuts[before];
      if (IsCounted(cut)) NarrowByCounts<T>(counts + before * kDigits, exchange, cut);
    }
    if (is_first_segment && threadIdx.x == 0) cuts[digit * rows.rows + row] = cut;
    return cut;
  }
};

template <class T>
__global__ void __launch_bounds__(kSplitThreads) CountDigits(SplitParams<T> params) {
  using Bits = typename T::Bits;
  constexpr int kSize = Vector<T>::kSize;
  const RowsParams<T>& p = params.rows;
  const RadixMemory memory = RadixMemory::At(0);
  bool k_is_valid;
  const uint32_t k = p.ReadK(&k_is_valid);
  for (int64_t block = blockIdx.x; block < p.rows * params.segments; block += gridDim.x) {
    const int64_t row = block / params.segments;
    const int segment = static_cast<int>(block % params.segments);
    const Cut<T> cut = params.CutOf(row, segment == 0, k, memory.exchange);
    if (!params.IsCounted(cut)) continue;
    memory.Clear();
    __syncthreads();
    const auto x = p.x + row * p.n;
    const bool x_is_wide = IsWide(x);
    const int64_t begin = segment * params.segment;
    const int64_t end = Smaller(begin + params.segment, p.n);
    for (int64_t i = begin + threadIdx.x * kSize; i < end; i += kSplitThreads * kSize) {
      const Vector<T> vector = LoadVector<T>(x, i, end - i, x_is_wide);
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        const Bits key = KeyOf<T>(vector.entries[v], p.score_mask);
        const auto place = static_cast<uint32_t>(p.n - 1 - (i + v));
        if (i + v < end && (params.digit == 0 || cut.Has(key, place)))
          atomicAdd(memory.counts + cut.Digit(key, place), 1u);
      }
    }
    __syncthreads();
    const auto counts = params.counts + (params.digit * p.rows + row) * kDigits;
    for (int digit = threadIdx.x; digit < kDigits; digit += kSplitThreads) {
      const uint32_t count = memory.counts[digit];
      if (count > 0) atomicAdd(counts + digit, count);
    }
    __syncthreads();
  }
}

// The minimum number of blocks per multiprocessor. 0 leaves it to ptxas. For sm_70 ptxas chooses more blocks than there
// are registers for.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
constexpr int kWriteDecidedBlocks = 1;
#else
constexpr int kWriteDecidedBlocks = 0;
#endif

template <class T>
__global__ void __launch_bounds__(kSplitThreads, kWriteDecidedBlocks) WriteDecided(SplitParams<T> params) {
  using Bits = typename T::Bits;
  constexpr int kSize = Vector<T>::kSize;
  const RowsParams<T>& p = params.rows;
  const RadixMemory memory = RadixMemory::At(0);
  bool k_is_valid;
  const uint32_t k = p.ReadK(&k_is_valid);
  const Factors<T> factors(p.separation, p.suppression, k_is_valid);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t block = blockIdx.x; block < p.rows * params.segments; block += gridDim.x) {
    const int64_t row = block / params.segments;
    const int segment = static_cast<int>(block % params.segments);
    const Cut<T> cut = params.CutOf(row, segment == 0, k, memory.exchange);
    const bool is_settled = cut.IsSettled();
    const auto x = p.x + row * p.n;
    const auto y = p.y + row * p.n;
    const auto selected_row = p.selected + row * BitmaskBytes(p.n);
    const auto indices = params.candidate_indices + row * params.max_count;
    const auto candidates = params.candidates + row * params.max_count;
    const bool x_is_wide = IsWide(x), y_is_wide = IsWide(y);
    const int64_t begin = segment * params.segment;
    const int64_t end = Smaller(begin + params.segment, p.n);
    for (int64_t all_begin = begin; all_begin < end; all_begin += kSplitThreads * kSize) {
      const int64_t i = all_begin + threadIdx.x * kSize;
      Vector<T> vector = LoadVector<T>(x, i, end - i, x_is_wide);
      Bits keys[kSize];
#pragma unroll
      for (int v = 0; v < kSize; ++v) keys[v] = KeyOf<T>(vector.entries[v], p.score_mask);
      const auto first_place = static_cast<uint32_t>(p.n - 1 - i);
      uint32_t undecided;
      const uint32_t exist = FirstBits<kSize>(end - i);
      const uint32_t selected = cut.SelectsOf(keys, first_place, &undecided) & exist;
      undecided = is_settled ? 0 : undecided & exist;
      if (undecided != 0) {
#pragma unroll
        for (int v = 0; v < kSize; ++v) {
          if (!cut.HasPlace(first_place - v)) undecided &= ~(1u << v);
        }
      }
      if (__ballot_sync(kAllLanes, undecided != 0) != 0) {
        // Reserves places for the candidates of a whole warp at once.
        const auto count = static_cast<uint32_t>(__popc(undecided));
        uint32_t to_here = count;
#pragma unroll
        for (int step = 1; step < kWarp; step *= 2) {
          const uint32_t before = __shfl_up_sync(kAllLanes, to_here, step);
          if (lane >= step) to_here += before;
        }
        uint32_t place = 0;
        if (lane == kWarp - 1) place = atomicAdd(params.candidate_counts + row, to_here);
        place = __shfl_sync(kAllLanes, place, kWarp - 1) + to_here - count;
#pragma unroll
        for (int v = 0; v < kSize; ++v) {
          if (undecided >> v & 1) {
            indices[place] = static_cast<uint32_t>(i + v);
            candidates[place] = vector.entries[v];
            ++place;
          }
        }
      }
      factors.Multiply(vector.entries, selected);
      StoreVector<T>(y, i, end - i, y_is_wide, vector);
      StoreSelected<T>(selected_row, i, end, selected);
    }
    __syncthreads();
  }
}

// Sets bits of the bitmask with atomic operations on words, because threads share words. The first and last bytes of
// the batch may lie in words that extend beyond it. The bits of these bytes are collected in `edge_bits`, six words of
// shared memory.
struct BitSetter {
  Pointer<uint8_t> selected;
  int64_t bytes;
  Pointer<uint32_t> edge_bits;

  __device__ __forceinline__ void Set(int64_t byte, uint32_t bit) const {
    const int64_t word = byte - BytesIntoWord(selected + byte);
    if (word < 0) {
      atomicOr(edge_bits + byte, bit);
    } else if (word + 4 > bytes) {
      atomicOr(edge_bits + (3 + bytes - 1 - byte), bit);
    } else {
      atomicOr(Cast<uint32_t>(selected + word), bit << (8 * (byte - word)));
    }
  }
  // Thread 0 must call it after a barrier.
  __device__ __forceinline__ void SetEdges() const {
    for (int i = 0; i < 6; ++i) {
      const int64_t byte = i < 3 ? i : bytes - 1 - (i - 3);
      const uint32_t bits = edge_bits[i];
      if (bits != 0) selected[byte] = static_cast<uint8_t>(selected[byte] | bits);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kCandidateThreads) WriteCandidates(SplitParams<T> params) {
  using Bits = typename T::Bits;
  const RowsParams<T>& p = params.rows;
  const RadixMemory memory = RadixMemory::At(0);
  bool k_is_valid;
  p.ReadK(&k_is_valid);
  const Factors<T> factors(p.separation, p.suppression, k_is_valid);
  const auto n = static_cast<uint32_t>(p.n);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    Cut<T> cut = params.cuts[params.digit * p.rows + row];
    if (cut.IsSettled()) continue;
    const uint32_t count = cut.count;
    while (!cut.IsSettled()) {
      memory.Clear();
      __syncthreads();
      params.ForEachCandidate(row, count, [&](Bits entry, uint32_t i) {
        const Bits key = KeyOf<T>(entry, p.score_mask);
        if (cut.Has(key, n - 1 - i)) atomicAdd(memory.counts + cut.Digit(key, n - 1 - i), 1u);
      });
      __syncthreads();
      NarrowByCounts<T>(memory.counts, memory.exchange, cut);
    }

    const int64_t bytes = BitmaskBytes(n);
    const BitSetter bits{p.selected, p.rows * bytes, memory.exchange};
    if (threadIdx.x < 6) bits.edge_bits[threadIdx.x] = 0;
    __syncthreads();
    params.ForEachCandidate(row, count, [&](Bits entry, uint32_t i) {
      if (!cut.Selects(KeyOf<T>(entry, p.score_mask), n - 1 - i)) return;
      p.y[row * n + i] = factors.Product(entry, true);
      bits.Set(row * bytes + i / 8, 1u << i % 8);
    });
    __syncthreads();
    if (threadIdx.x == 0) bits.SetEdges();
    __syncthreads();
  }
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_RADIX_ROWS_INL_H_
