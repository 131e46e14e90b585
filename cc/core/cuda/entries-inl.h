// Entries on the device: what a factor makes of them, and how they travel 16 bytes at a time.

#ifndef SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_
#define SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_

#include <cstdint>

#include "core/cuda/device.h"
#include "core/types.h"

namespace separationfactor {
namespace cuda {
namespace {

// ---- Scalars -------------------------------------------------------------------------------------------------

// k, where it is known.
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

// A denormal as a zero of its sign. The device flushes float32's only if the compiler is told to, and float64's
// never; done in integers it does not depend on flags.
template <class Number>
__device__ __forceinline__ Number Flush(Number number) {
  using F = Format<Number>;
  const auto bits = BitCast<typename F::Bits>(number);
  return (bits & F::kExponent) == 0 ? BitCast<Number>(static_cast<typename F::Bits>(bits & F::kSign)) : number;
}

// x * y of numbers that are no denormals. Denormal products are flushed; no fused multiply-add is made of it.
__device__ __forceinline__ float Multiply(float x, float y) { return MultiplyFlushed(x, y); }
__device__ __forceinline__ double Multiply(double x, double y) { return Flush(__dmul_rn(x, y)); }

// An entry as the number that a factor multiplies.
template <class T>
__device__ __forceinline__ typename T::Number ToNumber(typename T::Bits bits) {
  if constexpr (T::kDType == DType::kFloat16) return FromHalf(bits);
  if constexpr (T::kDType == DType::kFloat64) return Flush(T::ToNumber(bits));
  return T::ToNumber(bits);  // Multiply flushes it
}

// A product that is not NaN as an entry.
template <class T>
__device__ __forceinline__ typename T::Bits FromProduct(typename T::Number product) {
  if constexpr (T::kDType == DType::kFloat16) return ToHalf(product);
  if constexpr (T::kDType == DType::kBFloat16) {
    // As BFloat16::FromNumber.
    const auto bits = BitCast<uint32_t>(product);
    return static_cast<typename T::Bits>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
  }
  return T::FromNumber(product);
}

// A factor as kernels use it: see Factor in products-inl.h. Its products have the bits that the CPU's have, those
// of NaNs included, although the device makes but one NaN.
template <class T>
struct DeviceFactor {
  using Number = typename T::Number;
  using Bits = typename T::Bits;
  using F = Format<Number>;
  using NumberBits = typename F::Bits;

  Number number;
  NumberBits nan;  // what is made of numbers that are not NaN
  Bits keep;       // 0 if the product is the same for every entry

  // Of an invalid k every product is NaN.
  __device__ DeviceFactor(const FactorSource<T>& source, bool k_is_valid) {
    number = source.on_device != nullptr ? T::ToNumber(source.on_device[0]) : source.value;
    number = k_is_valid ? Flush(number) : BitCast<Number>(static_cast<NumberBits>(F::kExponent | F::kQuiet));
    const auto bits = BitCast<NumberBits>(number);
    const bool is_nan = (bits & ~F::kSign) > F::kExponent;
    if (number == 0) number = 0;  // the positive one
    keep = number == 0 || is_nan ? Bits{0} : static_cast<Bits>(~Bits{0});
    // Infinity times zero is the x86's default NaN.
    nan = F::kExponent | F::kQuiet | (is_nan ? bits & F::kSign : F::kSign);
  }

  __device__ __forceinline__ bool IsZero() const { return number == 0; }

  // What a product that is NaN is, of an entry's bits that were kept.
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

  // Multiplies entries, those whose bit is set in `selected` by the separation factor. Which NaN a product is takes
  // steps of its own, which are left out where none is.
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

// An entry plus zero: one zero for those of either sign (and for denormals, where they tie with it), one NaN for all,
// whose bits after the sign are ones, and everything else as it is. Not for float64, whose NaNs stay different.
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

// An entry's order key: Key of types.h, but in fewer steps. `score_mask` clears the sign where magnitudes are ranked,
// and what is left is ranked by value: one kernel serves both scores. No key is 0, not -inf's either.
template <class T>
__device__ __forceinline__ typename T::Bits KeyOf(typename T::Bits entry, typename T::Bits score_mask) {
  using Bits = typename T::Bits;
  if constexpr (T::kDType == DType::kFloat64) {
    return Key<T, Score::kValue>(entry & score_mask);
  } else {
    constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    const Bits bits = PlusZero<T>(static_cast<Bits>(entry & score_mask));
    // All bits of what is negative are turned, and of the rest the sign.
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

// The entries from i on, `count` of which exist; zeros after them. `is_wide` says that the row starts at a multiple
// of 16 bytes; i always is one of Vector::kSize.
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

// Stores a bit an entry of what the lanes of a warp hold: neighbours hold neighbouring vectors, from i on each, and
// every eighth entry is some lane's first. Lanes whose i is n or more have no bits.
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
