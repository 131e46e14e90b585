// The sums of u * v over the selected entries and over the others, for one block of elements. separate.h documents the
// order of additions: groups of 64 are added in halves, so that vectors add as one number after another would.

#ifndef SEPARATIONFACTOR_CORE_CPU_SUMS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SUMS_INL_H_

#include <cstdint>

#include "core/cpu/bitmask-inl.h"
#include "core/cpu/kernels.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace {

using SumVectors = Simd<double>;

// Adds the upper half of the lanes to the lower half until one is left.
inline double SumLanes(SumVectors::Vec vec) {
  double lanes[SumVectors::kLanes];
  __builtin_memcpy(lanes, &vec, sizeof(lanes));
  for (int half = SumVectors::kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Adds the upper half of kCount vectors to the lower half until one is left, then its lanes. Overwrites the vectors.
template <int kCount>
inline double SumVectorsAndLanes(SumVectors::Vec* vectors) {
  if constexpr (kCount > 1) {
    for (int i = 0; i < kCount / 2; ++i) vectors[i] += vectors[i + kCount / 2];
    return SumVectorsAndLanes<kCount / 2>(vectors);
  }
  return SumLanes(vectors[0]);
}

template <class Number>
SumVectors::Vec LoadAsDouble(const Number* from) {
  typedef Number Vec __attribute__((vector_size(SumVectors::kLanes * sizeof(Number))));
  Vec vec;
  __builtin_memcpy(&vec, from, sizeof(vec));
  return __builtin_convertvector(vec, SumVectors::Vec);
}

// Sums a group of 64 products. Bit i of `bits` tells whether product i is selected.
template <class Number>
inline SelectedSums SumGroup(const Number* u, const Number* v, uint64_t bits) {
  using S = SumVectors;
  using Vec = S::Vec;
  constexpr int kCount = kSumGroup / S::kLanes;
  Vec selected[kCount / 2], others[kCount / 2];
  for (int i = 0; i < kCount / 2; ++i) {
    selected[i] = others[i] = Vec{};
    for (const int place : {i * S::kLanes, kSumGroup / 2 + i * S::kLanes}) {
      const Vec product = LoadAsDouble(u + place) * LoadAsDouble(v + place);
      const S::Mask mask = S::MaskOf(bits >> place);
      selected[i] += S::ZeroUnless(mask, product);
      others[i] += S::ZeroUnless(S::AndNot(S::FirstLanes(S::kLanes), mask), product);
    }
  }
  return {SumVectorsAndLanes<kCount / 2>(selected), SumVectorsAndLanes<kCount / 2>(others)};
}

// Sums a group of 64 numbers as a group of products is summed.
inline double SumGroup(const double* numbers) {
  using S = SumVectors;
  constexpr int kCount = kSumGroup / S::kLanes;
  S::Vec vectors[kCount];
  for (int i = 0; i < kCount; ++i) vectors[i] = S::Load(numbers + i * S::kLanes);
  return SumVectorsAndLanes<kCount>(vectors);
}

// Returns the bits [begin, begin + size) of a bitmask, for 1 <= size <= 64. The other bits are zero. Reads no byte at
// or after `end`.
inline uint64_t LoadBitsAt(const uint8_t* bitmask, int64_t begin, int size, const uint8_t* end) {
  const uint8_t* bytes = bitmask + begin / 8;
  const int shift = static_cast<int>(begin % 8);
  uint64_t bits = LoadBits(bytes, end - bytes >= 8 ? kBlock : static_cast<int>(Smaller(kBlock, shift + size)));
  bits >>= shift;
  if (shift + size > 64) bits |= static_cast<uint64_t>(bytes[8]) << (64 - shift);
  return size == 64 ? bits : bits & ((uint64_t{1} << size) - 1);
}

// Returns which of the next `size` elements are selected, and advances the position, across rows.
inline uint64_t NextBits(const SumSelectedArgs& args, int size, int64_t& row, int64_t& column) {
  const uint8_t* end = args.selected + args.rows * BitmaskBytes(args.n);
  uint64_t bits = 0;
  for (int done = 0; done < size;) {
    const int count = static_cast<int>(Smaller(args.n - column, size - done));
    bits |= LoadBitsAt(args.selected + row * BitmaskBytes(args.n), column, count, end) << done;
    done += count;
    column += count;
    if (column == args.n) column = 0, ++row;
  }
  return bits;
}

// Converts a group of the half types; `numbers` has room for the group. Returns a group of the others as it is.
template <class T>
inline const typename T::Number* NumbersOf(const typename T::Bits* group, typename T::Number* numbers) {
  if constexpr (sizeof(typename T::Bits) == sizeof(typename T::Number)) {
    return reinterpret_cast<const typename T::Number*>(group);
  } else {
#if SEPARATIONFACTOR_AVX2 || SEPARATIONFACTOR_AVX512
    if constexpr (T::kDType == DType::kFloat16) {
      for (int i = 0; i < kSumGroup; i += 8) {
        _mm256_storeu_ps(numbers + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group + i))));
      }
      return numbers;
    }
#endif
    for (int i = 0; i < kSumGroup; ++i) numbers[i] = T::ToNumber(group[i]);
    return numbers;
  }
}

template <class T>
SelectedSums SumBlock(const SumSelectedArgs& args, int64_t block) {
  using Bits = typename T::Bits;
  using Number = typename T::Number;
  const int64_t begin = block * kSumBlock;
  const int64_t end = Smaller(begin + kSumBlock, args.rows * args.n);
  const Bits* u = static_cast<const Bits*>(args.u);
  const Bits* v = static_cast<const Bits*>(args.v);
  int64_t row = begin / args.n, column = begin % args.n;

  // Missing elements and groups count as zeros.
  double selected[kSumGroup] = {}, others[kSumGroup] = {};
  int groups = 0;
  for (int64_t i = begin; i < end; i += kSumGroup, ++groups) {
    const int size = static_cast<int>(Smaller(kSumGroup, end - i));
    const uint64_t bits = NextBits(args, size, row, column);
    const Bits* group_u = u + i;
    const Bits* group_v = v + i;
    Bits padded_u[kSumGroup], padded_v[kSumGroup];
    if (size < kSumGroup) {
      for (int j = 0; j < kSumGroup; ++j) {
        padded_u[j] = j < size ? group_u[j] : Bits{0};
        padded_v[j] = j < size ? group_v[j] : Bits{0};
      }
      group_u = padded_u;
      group_v = padded_v;
    }
    Number numbers_u[kSumGroup], numbers_v[kSumGroup];
    const SelectedSums sums = SumGroup(NumbersOf<T>(group_u, numbers_u), NumbersOf<T>(group_v, numbers_v), bits);
    selected[groups] = sums.selected;
    others[groups] = sums.others;
  }
  return {SumGroup(selected), SumGroup(others)};
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SUMS_INL_H_
