// Entries on the device: what a factor makes of them, and how they travel 16 bytes at a time.

#ifndef SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_
#define SEPARATIONFACTOR_CORE_CUDA_ENTRIES_INL_H_

#include <cstdint>

#include "core/cuda/device.h"
#include "core/dtypes.h"

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

// Intrinsics, of which the compiler makes no fused multiply-add.
__device__ __forceinline__ float Multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double Multiply(double a, double b) { return __dmul_rn(a, b); }

// A denormal as a zero of its sign. The device flushes float32's only if the compiler is told to, and float64's
// never; done in integers it does not depend on flags.
template <class Number>
__device__ __forceinline__ Number Flush(Number number) {
  using F = Format<Number>;
  const auto bits = BitCast<typename F::Bits>(number);
  return (bits & F::kExponent) == 0 ? BitCast<Number>(static_cast<typename F::Bits>(bits & F::kSign)) : number;
}

// A factor as kernels use it: see Factor in products-inl.h. Its products have the bits that the CPU's have, those
// of NaNs included, although the device makes but one NaN.
template <class T>
class DeviceFactor {
 public:
  using Number = typename T::Number;
  using Bits = typename T::Bits;
  using F = Format<Number>;
  using NumberBits = typename F::Bits;

  // Of an invalid k every product is NaN.
  __device__ DeviceFactor(const FactorSource<T>& source, bool k_is_valid) {
    number_ = source.on_device != nullptr ? T::ToNumber(source.on_device[0]) : source.value;
    number_ = k_is_valid ? Flush(number_) : BitCast<Number>(static_cast<NumberBits>(F::kExponent | F::kQuiet));
    const auto bits = BitCast<NumberBits>(number_);
    const bool is_nan = (bits & ~F::kSign) > F::kExponent;
    if (number_ == 0) number_ = 0;  // the positive one
    keep_ = number_ == 0 || is_nan ? Bits{0} : static_cast<Bits>(~Bits{0});
    // Infinity times zero is the x86's default NaN.
    nan_ = F::kExponent | F::kQuiet | (is_nan ? bits & F::kSign : F::kSign);
  }

  // The one or the other: a choice of three numbers, where a branch would have lanes take both ways.
  __device__ __forceinline__ DeviceFactor(bool is_first, const DeviceFactor& first, const DeviceFactor& second)
      : number_(is_first ? first.number_ : second.number_),
        nan_(is_first ? first.nan_ : second.nan_),
        keep_(is_first ? first.keep_ : second.keep_) {}

  __device__ __forceinline__ bool IsZero() const { return number_ == 0; }

  __device__ __forceinline__ Bits operator*(Bits entry) const {
    const Number x = Flush(T::ToNumber(static_cast<Bits>(entry & keep_)));
    const auto bits = BitCast<NumberBits>(x);
    Number product = Flush(Multiply(x, number_));
    if ((BitCast<NumberBits>(product) & ~F::kSign) > F::kExponent) {
      product = BitCast<Number>((bits & ~F::kSign) > F::kExponent ? static_cast<NumberBits>(bits | F::kQuiet) : nan_);
    }
    return T::FromNumber(product);
  }

 private:
  Number number_;
  NumberBits nan_;  // what is made of numbers that are not NaN
  Bits keep_;       // 0 if the product is the same for every entry
};

template <class T>
struct Factors {
  DeviceFactor<T> separation, suppression;

  __device__ Factors(const FactorSource<T>& separation_source, const FactorSource<T>& suppression_source,
                     bool k_is_valid)
      : separation(separation_source, k_is_valid), suppression(suppression_source, k_is_valid) {}

  __device__ __forceinline__ typename T::Bits Product(typename T::Bits entry, bool is_selected) const {
    return DeviceFactor<T>(is_selected, separation, suppression) * entry;
  }
};

// ---- Scores --------------------------------------------------------------------------------------------------

// An entry's order key. `score_mask` clears the sign where magnitudes are ranked, and what is left is ranked by
// value: one kernel serves both scores. No key is 0, not -inf's either.
template <class T>
__device__ __forceinline__ typename T::Bits KeyOf(typename T::Bits entry, typename T::Bits score_mask) {
  return Key<T, Score::kValue>(static_cast<typename T::Bits>(entry & score_mask));
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
