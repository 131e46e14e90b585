// Replaces the compiler's header when the AVX-512 kernels are compiled for a CPU without AVX-512. Implements the
// intrinsics that cc/core/cpu uses as loops, following Intel's Intrinsics Guide.

#ifndef SEPARATIONFACTOR_TESTS_AVX512_IMMINTRIN_H_
#define SEPARATIONFACTOR_TESTS_AVX512_IMMINTRIN_H_

#include_next <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1

namespace avx512 {

template <class Lane, class Vec>
struct Lanes {
  static constexpr int kCount = sizeof(Vec) / sizeof(Lane);
  Lanes() = default;
  explicit Lanes(const Vec& vec) { std::memcpy(of, &vec, sizeof(vec)); }
  operator Vec() const {
    Vec vec;
    std::memcpy(&vec, of, sizeof(vec));
    return vec;
  }
  Lane of[kCount] = {};
};

// ---- Masks ---------------------------------------------------------------------------------------------------

template <class Lane, class Vec>
uint64_t Compare(const Vec& a, const Vec& b, int predicate) {
  const Lanes<Lane, Vec> left(a), right(b);
  uint64_t mask = 0;
  for (int i = 0; i < left.kCount; ++i) {
    const Lane x = left.of[i], y = right.of[i];
    bool holds = false;
    switch (predicate) {
      case _CMP_EQ_OQ:
        holds = x == y;
        break;
      case _CMP_GE_OQ:
        holds = x >= y;
        break;
      case _CMP_GT_OQ:
        holds = x > y;
        break;
      case _CMP_NLE_UQ:
        holds = !(x <= y);
        break;
      case _CMP_NLT_UQ:
        holds = !(x < y);
        break;
      case _CMP_UNORD_Q:
        holds = x != x || y != y;
        break;
      default:
        __builtin_trap();
    }
    mask |= uint64_t{holds} << i;
  }
  return mask;
}

template <class Lane, class Vec>
Vec Select(uint64_t mask, const Vec& if_set, const Vec& if_not) {
  const Lanes<Lane, Vec> set(if_set), unset(if_not);
  Lanes<Lane, Vec> selected;
  for (int i = 0; i < set.kCount; ++i) selected.of[i] = (mask >> i & 1) != 0 ? set.of[i] : unset.of[i];
  return selected;
}

template <class Lane, class Vec>
Vec Compress(uint64_t mask, const Vec& vec) {
  const Lanes<Lane, Vec> lanes(vec);
  Lanes<Lane, Vec> compressed;
  int count = 0;
  for (int i = 0; i < lanes.kCount; ++i) {
    if ((mask >> i & 1) != 0) compressed.of[count++] = lanes.of[i];
  }
  return compressed;
}

// Masked lanes are not accessed. They may lie outside the allocation or belong to another thread.
template <class Lane, class Vec>
Vec Load(uint64_t mask, const void* from) {
  Lanes<Lane, Vec> lanes;
  for (int i = 0; i < lanes.kCount; ++i) {
    if ((mask >> i & 1) != 0) std::memcpy(&lanes.of[i], static_cast<const Lane*>(from) + i, sizeof(Lane));
  }
  return lanes;
}
template <class Lane, class Vec>
void Store(void* to, uint64_t mask, const Vec& vec) {
  const Lanes<Lane, Vec> lanes(vec);
  for (int i = 0; i < lanes.kCount; ++i) {
    if ((mask >> i & 1) != 0) std::memcpy(static_cast<Lane*>(to) + i, &lanes.of[i], sizeof(Lane));
  }
}

template <class Lane>
__m512i Add(const __m512i& a, const __m512i& b) {
  const Lanes<Lane, __m512i> left(a), right(b);
  Lanes<Lane, __m512i> sums;
  for (int i = 0; i < left.kCount; ++i) sums.of[i] = left.of[i] + right.of[i];
  return sums;
}

// ---- Parts -----------------------------------------------------------------------------------------------------

template <class Part>
Part Extract(const __m512i& vec, int index) {
  Part part;
  std::memcpy(&part, reinterpret_cast<const char*>(&vec) + index * sizeof(part), sizeof(part));
  return part;
}
template <class Part>
__m512i Insert(__m512i vec, const Part& part, int index) {
  std::memcpy(reinterpret_cast<char*>(&vec) + index * sizeof(part), &part, sizeof(part));
  return vec;
}
// The upper lanes of such a cast are undefined. Here they hold garbage.
template <class Part>
__m512i Widen(const Part& part) {
  __m512i vec;
  std::memset(&vec, 0xA5, sizeof(vec));
  return Insert(vec, part, 0);
}

// ---- Conversions -------------------------------------------------------------------------------------------------

template <class From, class To, class FromVec, class ToVec>
ToVec Convert(const FromVec& vec) {
  const Lanes<From, FromVec> from(vec);
  Lanes<To, ToVec> to;
  for (int i = 0; i < to.kCount; ++i) to.of[i] = static_cast<To>(from.of[i]);
  return to;
}

// Within each 16 bytes: the lanes of a, then those of b, with saturation.
inline __m512i Pack(const __m512i& a, const __m512i& b) {
  const Lanes<int32_t, __m512i> left(a), right(b);
  Lanes<int16_t, __m512i> packed;
  for (int i = 0; i < packed.kCount; ++i) {
    const int lane = i / 8 * 4 + i % 4;
    const int32_t wide = i % 8 < 4 ? left.of[lane] : right.of[lane];
    const int32_t least = std::numeric_limits<int16_t>::min(), greatest = std::numeric_limits<int16_t>::max();
    packed.of[i] = static_cast<int16_t>(wide < least ? least : (wide > greatest ? greatest : wide));
  }
  return packed;
}

inline __m512 FromHalf(const __m256i& half) {
  Lanes<__m256, __m512> parts;
  parts.of[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(half));
  parts.of[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1));
  return parts;
}
template <int kRounding>
__m256i ToHalf(const __m512& vec) {
  const Lanes<__m256, __m512> parts(vec);
  return _mm256_set_m128i(_mm256_cvtps_ph(parts.of[1], kRounding), _mm256_cvtps_ph(parts.of[0], kRounding));
}

}  // namespace avx512

#define _mm512_cmp_ps_mask(a, b, predicate) static_cast<__mmask16>(avx512::Compare<float, __m512>(a, b, predicate))
#define _mm512_cmp_pd_mask(a, b, predicate) static_cast<__mmask8>(avx512::Compare<double, __m512d>(a, b, predicate))
#define _mm512_cmpeq_epi16_mask(a, b) static_cast<__mmask32>(avx512::Compare<int16_t, __m512i>(a, b, _CMP_EQ_OQ))
#define _mm512_cmpgt_epi16_mask(a, b) static_cast<__mmask32>(avx512::Compare<int16_t, __m512i>(a, b, _CMP_GT_OQ))
#define _mm512_cmpge_epi32_mask(a, b) static_cast<__mmask16>(avx512::Compare<int32_t, __m512i>(a, b, _CMP_GE_OQ))
#define _mm512_cmpge_epi64_mask(a, b) static_cast<__mmask8>(avx512::Compare<int64_t, __m512i>(a, b, _CMP_GE_OQ))

#define _mm512_mask_blend_ps(mask, a, b) avx512::Select<float, __m512>(mask, b, a)
#define _mm512_mask_blend_pd(mask, a, b) avx512::Select<double, __m512d>(mask, b, a)
#define _mm512_mask_blend_epi16(mask, a, b) avx512::Select<int16_t, __m512i>(mask, b, a)
#define _mm512_maskz_mov_ps(mask, a) avx512::Select<float, __m512>(mask, a, __m512{})
#define _mm512_maskz_mov_pd(mask, a) avx512::Select<double, __m512d>(mask, a, __m512d{})
#define _mm512_maskz_mov_epi16(mask, a) avx512::Select<int16_t, __m512i>(mask, a, __m512i{})
#define _mm512_mask_add_epi32(source, mask, a, b) \
  avx512::Select<uint32_t, __m512i>(mask, avx512::Add<uint32_t>(a, b), source)
#define _mm512_mask_add_epi64(source, mask, a, b) \
  avx512::Select<uint64_t, __m512i>(mask, avx512::Add<uint64_t>(a, b), source)

#define _mm512_maskz_compress_ps(mask, a) avx512::Compress<float, __m512>(mask, a)
#define _mm512_maskz_compress_pd(mask, a) avx512::Compress<double, __m512d>(mask, a)
#define _mm512_maskz_compress_epi32(mask, a) avx512::Compress<int32_t, __m512i>(mask, a)

#define _mm512_maskz_loadu_ps(mask, from) avx512::Load<float, __m512>(mask, from)
#define _mm512_maskz_loadu_pd(mask, from) avx512::Load<double, __m512d>(mask, from)
#define _mm512_maskz_loadu_epi16(mask, from) avx512::Load<int16_t, __m512i>(mask, from)
#define _mm512_mask_storeu_ps(to, mask, a) avx512::Store<float, __m512>(to, mask, a)
#define _mm512_mask_storeu_pd(to, mask, a) avx512::Store<double, __m512d>(to, mask, a)
#define _mm512_mask_storeu_epi16(to, mask, a) avx512::Store<int16_t, __m512i>(to, mask, a)

#define _mm512_castsi128_si512(a) avx512::Widen<__m128i>(a)
#define _mm512_castsi256_si512(a) avx512::Widen<__m256i>(a)
#define _mm512_castsi512_si128(a) avx512::Extract<__m128i>(a, 0)
#define _mm512_castsi512_si256(a) avx512::Extract<__m256i>(a, 0)
#define _mm512_extracti32x4_epi32(a, index) avx512::Extract<__m128i>(a, index)
#define _mm512_extracti64x4_epi64(a, index) avx512::Extract<__m256i>(a, index)
#define _mm512_inserti32x4(a, part, index) avx512::Insert<__m128i>(a, part, index)
#define _mm512_inserti64x4(a, part, index) avx512::Insert<__m256i>(a, part, index)

#define _mm512_cvtepi16_epi32(a) avx512::Convert<int16_t, int32_t, __m256i, __m512i>(a)
#define _mm512_cvtepi32_epi16(a) avx512::Convert<int32_t, int16_t, __m512i, __m256i>(a)
#define _mm512_packs_epi32(a, b) avx512::Pack(a, b)
#define _mm512_cvtph_ps(half) avx512::FromHalf(half)
#define _mm512_cvtps_ph(a, rounding) avx512::ToHalf<rounding>(a)

#endif  // SEPARATIONFACTOR_TESTS_AVX512_IMMINTRIN_H_
