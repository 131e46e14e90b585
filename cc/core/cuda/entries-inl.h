// Entries on the device: scalars, products, order keys, and 16-byte loads and stores.

#ifndef SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_
#define SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_

#include <cstdint>

#include "core/cuda/device.h"
#include "core/types.h"

namespace separationfactor {
namespace cuda {
namespace {

// ---- Scalars -------------------------------------------------------------------------------------------------

// k in host or device memory.
struct KSource {
  Pointer<const int32_t> as_int32;
  Pointer<const int64_t> as_int64;
  int64_t value;

  __device__ int64_t Read() const {
    return as_int32 != nullptr ? as_int32[0] : as_int64 != nullptr ? as_int64[0] : value;
  }
};

template <class T>
struct FactorSource {
  Pointer<const typename T::Bits> on_device;
  typename T::Number value;
};

// ---- Products ------------------------------------------------------------------------------------------------

template <class Number>
struct Format;
template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr Bits kSign = 0x80000000u, kExponent = 0x7F800000u, kQuiet = 0x00400000u;
};
template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr Bits kSign = 0x8000000000000000u, kExponent = 0x7FF0000000000000u, kQuiet = 0x0008000000000000u;
};

// Turns a denormal into a zero of its sign. The device flushes float32 denormals only with a compiler flag, and float64
// denormals never. Integer arithmetic does not depend on flags.
template <class Number>
__device__ __forceinline__ Number Flush(Number number) {
  using F = Format<Number>;
  const auto bits = BitCast<typename F::Bits>(number);
  return (bits & F::kExponent) == 0 ? BitCast<Number>(static_cast<typename F::Bits>(bits & F::kSign)) : number;
}

// Returns x * y for x and y that are not denormal. Flushes denormal products. The compiler cannot fuse it with an
// addition.
__device__ __forceinline__ float Multiply(float x, float y) { return MultiplyFlushed(x, y); }
__device__ __forceinline__ double Multiply(double x, double y) { return Flush(__dmul_rn(x, y)); }

// Returns the number that a factor multiplies.
template <class T>
__device__ __forceinline__ typename T::Number ToNumber(typename T::Bits bits) {
  if constexpr (T::kDType == DType::kFloat16) return FromHalf(bits);
  if constexpr (T::kDType == DType::kFloat64) return Flush(T::ToNumber(bits));
  return T::ToNumber(bits);  // Multiply flushes denormals
}

// Rounds a product that is not NaN to an entry.
template <class T>
__device__ __forceinline__ typename T::Bits FromProduct(typename T::Number product) {
  if constexpr (T::kDType == DType::kFloat16) return ToHalf(product);
  if constexpr (T::kDType == DType::kBFloat16) {
    // Same as BFloat16::FromNumber without NaN.
    const auto bits = BitCast<uint32_t>(product);
    return static_cast<typename T::Bits>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
  }
  return T::FromNumber(product);
}

// A factor in the form that the kernels use: see Factor in cpu/products-inl.h. Products have the same bits as on the
// CPU, including NaNs, although the device's arithmetic produces only one NaN.
template <class T>
struct DeviceFactor {
  using Number = typename T::Number;
  using Bits = typename T::Bits;
  using F = Format<Number>;
  using NumberBits = typename F::Bits;

  Number number;
  NumberBits nan;  // a NaN product of an entry that is not NaN
  Bits keep;       // 0 if the product is the same for every entry

  // If k is invalid, every product is NaN.
  __device__ DeviceFactor(const FactorSource<T>& source, bool k_is_valid) {
    number = source.on_device != nullptr ? T::ToNumber(source.on_device[0]) : source.value;
    number = k_is_valid ? Flush(number) : BitCast<Number>(static_cast<NumberBits>(F::kExponent | F::kQuiet));
    const auto bits = BitCast<NumberBits>(number);
    const bool is_nan = (bits & ~F::kSign) > F::kExponent;
    if (number == 0) number = 0;  // -0 becomes +0
    keep = number == 0 || is_nan ? Bits{0} : static_cast<Bits>(~Bits{0});
    // On x86 infinity times zero is the default NaN, which has its sign bit set.
    nan = F::kExponent | F::kQuiet | (is_nan ? bits & F::kSign : F::kSign);
  }

  __device__ __forceinline__ bool IsZero() const { return number == 0; }

  // Returns the bits of a NaN product, from the kept bits of the entry.
  static __device__ __forceinline__ Bits NanOf(Bits kept, NumberBits nan) {
    const auto bits = BitCast<NumberBits>(T::ToNumber(kept));
    const bool is_nan = (bits & ~F::kSign) > F::kExponent;
    return T::FromNumber(BitCast<Number>(is_nan ? static_cast<NumberBits>(bits | F::kQuiet) : nan));
  }
};

template <class T>
struct Factors {
  using Bits = typename T::Bits;
  using Number = typename T::Number;
  DeviceFactor<T> separation, suppression;

  __device__ Factors(const FactorSource<T>& separation_source, const FactorSource<T>& suppression_source,
                     bool k_is_valid)
      : separation(separation_source, k_is_valid), suppression(suppression_source, k_is_valid) {}

  // Multiplies entries whose bit in `selected` is set by separation, and the others by suppression. The bits of NaN
  // products take extra steps, which are skipped if there is no NaN.
  template <int kCount>
  __device__ __forceinline__ void Multiply(Bits (&entries)[kCount], uint32_t selected) const {
    const auto is_selected = [&](int v) { return (selected >> v & 1) != 0; };
    const auto kept = [&](int v) {
      return static_cast<Bits>(entries[v] & (is_selected(v) ? separation.keep : suppression.keep));
    };
    const auto product = [&](int v) {
      return cuda::Multiply(ToNumber<T>(kept(v)), is_selected(v) ? separation.number : suppression.number);
    };
    constexpr int kAtOnce = kCount < 4 ? kCount : 4;
#pragma unroll
    for (int begin = 0; begin < kCount; begin += kAtOnce) {
      Bits products[kAtOnce];
      bool has_nan = false;
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) {
        const Number number = product(begin + v);
        has_nan |= number != number;
        products[v] = FromProduct<T>(number);
      }
      if (has_nan) {
#pragma unroll
        for (int v = 0; v < kAtOnce; ++v) {
          const int i = begin + v;
          const Number number = product(i);
          if (number == number) continue;
          products[v] = DeviceFactor<T>::NanOf(kept(i), is_selected(i) ? separation.nan : suppression.nan);
        }
      }
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) entries[begin + v] = products[v];
    }
  }

  __device__ __forceinline__ Bits Product(Bits entry, bool is_selected) const {
    Bits entries[] = {entry};
    Multiply(entries, is_selected);
    return entries[0];
  }
};

// ---- Scores --------------------------------------------------------------------------------------------------

// Returns the entry plus zero. Both zeros, and denormals that count as zero, become +0. Every NaN becomes the NaN with
// all bits after the sign set. Other entries stay the same. Not for float64, where NaNs stay distinct.
template <class T>
__device__ __forceinline__ typename T::Bits PlusZero(typename T::Bits entry) {
  using Bits = typename T::Bits;
  if constexpr (T::kDType == DType::kFloat16) {
    return AddHalf(entry, 0);
  } else {
    const auto sum = BitCast<uint32_t>(AddFlushed(T::ToNumber(entry), 0.0f));
    return static_cast<Bits>(sum >> (32 - 8 * sizeof(Bits)));
  }
}

// Returns the order key of an entry, in the same order as Key of types.h but in fewer steps. For magnitudes
// `score_mask` clears the sign, and the result is ranked by value, so one kernel serves both scores. No key is 0, not
// even that of -inf.
template <class T>
__device__ __forceinline__ typename T::Bits KeyOf(typename T::Bits entry, typename T::Bits score_mask) {
  using Bits = typename T::Bits;
  if constexpr (T::kDType == DType::kFloat64) {
    return Key<T, Score::kValue>(entry & score_mask);
  } else {
    constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    const Bits bits = PlusZero<T>(static_cast<Bits>(entry & score_mask));
    // Inverts all bits of negative entries and the sign bit of the others.
    return static_cast<Bits>(bits ^ ((bits & kSign) != 0 ? static_cast<Bits>(~Bits{0}) : kSign));
  }
}

template <class T>
typename T::Bits ScoreMask(Score score) {
  using Bits = typename T::Bits;
  constexpr auto kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  return score == Score::kMagnitude ? kMagnitude : static_cast<Bits>(~Bits{0});
}

// ---- Vectors -------------------------------------------------------------------------------------------------

// 16 bytes of entries.
template <class T>
struct Vector {
  static constexpr int kSize = 16 / sizeof(typename T::Bits);
  typename T::Bits entries[kSize];
};

// Loads the entries from i on, of which `count` exist, and sets the rest to zero. `is_wide`: the row starts at a
// multiple of 16 bytes. i is a multiple of Vector::kSize.
template <class T>
__device__ __forceinline__ Vector<T> LoadVector(Pointer<const typename T::Bits> row, int64_t i, int64_t count,
                                                bool is_wide) {
  if (is_wide && count >= Vector<T>::kSize) {
    const uint4 bits = Cast<const uint4>(row + i)[0];
    return BitCast<Vector<T>>(bits);
  }
  Vector<T> vector;
#pragma unroll
  for (int v = 0; v < Vector<T>::kSize; ++v) {
    vector.entries[v] = 0;
    if (v < count) vector.entries[v] = row[i + v];
  }
  return vector;
}

template <class T>
__device__ __forceinline__ void StoreVector(Pointer<typename T::Bits> row, int64_t i, int64_t count, bool is_wide,
                                            const Vector<T>& vector) {
  if (is_wide && count >= Vector<T>::kSize) {
    Cast<uint4>(row + i)[0] = BitCast<uint4>(vector);
    return;
  }
#pragma unroll
  for (int v = 0; v < Vector<T>::kSize; ++v) {
    if (v < count) row[i + v] = vector.entries[v];
  }
}

// Stores one bit per entry for the vectors of a warp. Adjacent lanes hold adjacent vectors, each starting at its i.
// Every eighth entry is the first one of a lane. Lanes with i >= n store nothing.
template <class T>
__device__ __forceinline__ void StoreSelected(Pointer<uint8_t> row, int64_t i, int64_t n, uint32_t bits) {
  constexpr int kSize = Vector<T>::kSize;
#pragma unroll
  for (int size = kSize; size < 8; size *= 2) bits |= __shfl_down_sync(kAllLanes, bits, size / kSize) << size;
  if (i % 8 == 0 && i < n) row[i / 8] = static_cast<uint8_t>(bits);
}

}  // namespace
}  // namespace cuda
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_
