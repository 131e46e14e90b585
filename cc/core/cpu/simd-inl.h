// Vectors of one instruction set. The files that include this header are compiled once per instruction set, with its
// flags. The compiler's predefined macros select the implementation.
//
// Everything is in an unnamed namespace. With external linkage the linker would keep one copy of each function,
// possibly the one compiled for AVX-512, for all files that call it. For the same reason neither this header nor the
// files that include it use templates or inline functions of the standard library. The test
// `kernels_define_no_shared_symbols` checks the objects.

#ifndef SEPARATIONFACTOR_CORE_CPU_SIMD_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SIMD_INL_H_

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace separationfactor {
namespace {

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SEPARATIONFACTOR_AVX512 1
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
#define SEPARATIONFACTOR_AVX2 1
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#if SEPARATIONFACTOR_AVX2
// For each value of a byte, the indices of its set bits, one per byte of a 64-bit word.
struct SetBits {
  constexpr SetBits() : of() {
    for (int byte = 0; byte < 256; ++byte) {
      for (int bit = 0, count = 0; bit < 8; ++bit) {
        if ((byte >> bit & 1) != 0) of[byte] |= static_cast<uint64_t>(bit) << (8 * count++);
      }
    }
  }
  uint64_t of[256];
};
constexpr SetBits kSetBits;
#endif

// Whether the lanes of a vector are integers. std::is_same<Lanes, IntVec> does not work: in a class template GCC 12
// drops the vector attribute of a member type.
template <class Vec>
constexpr bool kHasIntegerLanes = std::is_integral<std::remove_reference_t<decltype(std::declval<Vec&>()[0])>>::value;

template <int kBytes>
struct IntegerOfSize;
template <>
struct IntegerOfSize<2> {
  using Type = int16_t;
};
template <>
struct IntegerOfSize<4> {
  using Type = int32_t;
};
template <>
struct IntegerOfSize<8> {
  using Type = int64_t;
};

// Lane is the type in which scores are compared: float, double, or int16_t for the order keys of the half types.
template <class LaneType>
struct Simd {
  using Lane = LaneType;
  using Integer = typename IntegerOfSize<sizeof(Lane)>::Type;
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Lane));
  static constexpr bool kIsFloat = std::is_same<Lane, float>::value;
  static constexpr bool kIsDouble = std::is_same<Lane, double>::value;
  typedef Lane Vec __attribute__((vector_size(kVectorBytes)));
  typedef Integer IntVec __attribute__((vector_size(kVectorBytes)));
  typedef std::make_unsigned_t<Integer> UnsignedVec __attribute__((vector_size(kVectorBytes)));

  static Vec Set(Lane lane) { return lane - Vec{}; }
  static IntVec SetInteger(Integer lane) { return lane - IntVec{}; }

  static IntVec AddWrapped(IntVec a, IntVec b) { return (IntVec)((UnsignedVec)a + (UnsignedVec)b); }

  // Returns {0, 1, ...}.
  static IntVec Iota() { return MakeIota(std::make_integer_sequence<int, kLanes>()); }
  template <int... kIndices>
  static IntVec MakeIota(std::integer_sequence<int, kIndices...>) {
    return IntVec{static_cast<Integer>(kIndices)...};
  }

  // Selects lanes by index. Indices from kLanes on refer to b.
  template <int... kIndices>
  static Vec Shuffle(Vec a, Vec b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, kIndices...);
#else
    return __builtin_shuffle(a, b, IntVec{static_cast<Integer>(kIndices)...});
#endif
  }

  static Vec Load(const void* from) {
    Vec vec;
    __builtin_memcpy(&vec, from, sizeof(vec));
    return vec;
  }
  static void Store(void* to, Vec vec) { __builtin_memcpy(to, &vec, sizeof(vec)); }

  // MAXPS and MINPS return the second operand if either is NaN, so a NaN never enters the accumulator.
  static Vec Max(Vec x, Vec accumulator) { return x > accumulator ? x : accumulator; }
  static Vec Min(Vec x, Vec accumulator) { return x < accumulator ? x : accumulator; }

#if SEPARATIONFACTOR_AVX512
  using Mask = std::conditional_t<kIsFloat, __mmask16, std::conditional_t<kIsDouble, __mmask8, __mmask32>>;

  static Mask FirstLanes(int count) { return static_cast<Mask>((uint64_t{1} << count) - 1); }

  // Loads the first `count` lanes and sets the others to zero. 0 <= count < kLanes.
  static Vec LoadFirst(const void* from, int count) {
    const Mask mask = FirstLanes(count);
    if constexpr (kIsFloat) return _mm512_maskz_loadu_ps(mask, from);
    if constexpr (kIsDouble) return _mm512_maskz_loadu_pd(mask, from);
    if constexpr (sizeof(Lane) == 2) return (Vec)_mm512_maskz_loadu_epi16(mask, from);
  }
  static void StoreFirst(void* to, Vec vec, int count) {
    const Mask mask = FirstLanes(count);
    if constexpr (kIsFloat) _mm512_mask_storeu_ps(to, mask, vec);
    if constexpr (kIsDouble) _mm512_mask_storeu_pd(to, mask, vec);
    if constexpr (sizeof(Lane) == 2) _mm512_mask_storeu_epi16(to, mask, (__m512i)vec);
  }

  // Returns the lanes with x > threshold. A NaN in x is above.
  static Mask Above(Vec x, Vec threshold) {
    if constexpr (kIsFloat) return _mm512_cmp_ps_mask(x, threshold, _CMP_NLE_UQ);
    if constexpr (kIsDouble) return _mm512_cmp_pd_mask(x, threshold, _CMP_NLE_UQ);
    if constexpr (sizeof(Lane) == 2) return _mm512_cmpgt_epi16_mask((__m512i)x, (__m512i)threshold);
  }
  // Returns the lanes where x is not less than the threshold. A NaN in x is not less. For float and double.
  static Mask NotLess(Vec x, Vec threshold) {
    if constexpr (kIsFloat) return _mm512_cmp_ps_mask(x, threshold, _CMP_NLT_UQ);
    if constexpr (kIsDouble) return _mm512_cmp_pd_mask(x, threshold, _CMP_NLT_UQ);
  }
  static Mask Equal(Vec x, Vec threshold) {
    if constexpr (kIsFloat) return _mm512_cmp_ps_mask(x, threshold, _CMP_EQ_OQ);
    if constexpr (kIsDouble) return _mm512_cmp_pd_mask(x, threshold, _CMP_EQ_OQ);
    if constexpr (sizeof(Lane) == 2) return _mm512_cmpeq_epi16_mask((__m512i)x, (__m512i)threshold);
  }
  static Mask Unordered(Vec x, Vec y) {
    if constexpr (kIsFloat) return _mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q);
    if constexpr (kIsDouble) return _mm512_cmp_pd_mask(x, y, _CMP_UNORD_Q);
    return 0;
  }

  static uint64_t BitsOf(Mask mask) { return mask; }
  static Mask MaskOf(uint64_t bits) { return static_cast<Mask>(bits); }
  static Mask And(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask AndNot(Mask a, Mask b) { return static_cast<Mask>(a & ~b); }

  static Vec Blend(Mask mask, Vec if_set, Vec if_not) {
    if constexpr (kIsFloat) return _mm512_mask_blend_ps(mask, if_not, if_set);
    if constexpr (kIsDouble) return _mm512_mask_blend_pd(mask, if_not, if_set);
    if constexpr (sizeof(Lane) == 2) return (Vec)_mm512_mask_blend_epi16(mask, (__m512i)if_not, (__m512i)if_set);
  }
  static Vec ZeroUnless(Mask mask, Vec vec) {
    if constexpr (kIsFloat) return _mm512_maskz_mov_ps(mask, vec);
    if constexpr (kIsDouble) return _mm512_maskz_mov_pd(mask, vec);
    if constexpr (sizeof(Lane) == 2) return (Vec)_mm512_maskz_mov_epi16(mask, (__m512i)vec);
  }

  // Counts the set lanes of masks.
  struct Counter {
    int64_t count = 0;
    void Add(Mask mask) { count += __builtin_popcountll(mask); }
    int64_t Total() const { return count; }
  };

  // Stores the set lanes of the mask contiguously and returns their number. May store a whole vector. Compresses in a
  // register, because compressing stores are microcoded on Zen 4.
  static int Compress(Lane* to, Mask mask, Vec vec) {
    if constexpr (kIsFloat) Store(to, _mm512_maskz_compress_ps(mask, vec));
    if constexpr (kIsDouble) Store(to, _mm512_maskz_compress_pd(mask, vec));
    if constexpr (sizeof(Lane) == 2) {
      // Only VBMI2 compresses 16-bit lanes in one instruction, so they are widened to 32 bits.
      const auto low_mask = static_cast<__mmask16>(mask);
      const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256((__m512i)vec));
      const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64((__m512i)vec, 1));
      const __m256i low_lanes = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(low_mask, low));
      const __m256i high_lanes =
          _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(static_cast<__mmask16>(mask >> 16), high));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), low_lanes);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + __builtin_popcount(low_mask)), high_lanes);
    }
    return __builtin_popcountll(mask);
  }

#else
  using Mask = IntVec;  // each lane is 0 or -1

  static Mask FirstLanes(int count) { return Iota() < SetInteger(static_cast<Integer>(count)); }

  static Vec LoadFirst(const void* from, int count) {
    Vec vec{};
    __builtin_memcpy(&vec, from, count * sizeof(Lane));
    return vec;
  }
  static void StoreFirst(void* to, Vec vec, int count) { __builtin_memcpy(to, &vec, count * sizeof(Lane)); }

  static Mask Above(Vec x, Vec threshold) {
    if constexpr (sizeof(Lane) == 2) return x > threshold;
    return ~(x <= threshold);
  }
  static Mask NotLess(Vec x, Vec threshold) {
    // For ~(x < threshold) GCC emits byte blends at every use of the mask.
#if SEPARATIONFACTOR_AVX2
    if constexpr (kIsFloat) return (Mask)_mm256_cmp_ps(x, threshold, _CMP_NLT_UQ);
    if constexpr (kIsDouble) return (Mask)_mm256_cmp_pd(x, threshold, _CMP_NLT_UQ);
#elif defined(__SSE2__)
    if constexpr (kIsFloat) return (Mask)_mm_cmpnlt_ps(x, threshold);
    if constexpr (kIsDouble) return (Mask)_mm_cmpnlt_pd(x, threshold);
#endif
    return ~(x < threshold);
  }
  static Mask Equal(Vec x, Vec threshold) { return x == threshold; }
  static Mask Unordered(Vec x, Vec y) {
    if constexpr (sizeof(Lane) == 2) return Mask{};
#if SEPARATIONFACTOR_AVX2
    if constexpr (kIsFloat) return (Mask)_mm256_cmp_ps(x, y, _CMP_UNORD_Q);
    if constexpr (kIsDouble) return (Mask)_mm256_cmp_pd(x, y, _CMP_UNORD_Q);
#elif defined(__SSE2__)
    if constexpr (kIsFloat) return (Mask)_mm_cmpunord_ps(x, y);
    if constexpr (kIsDouble) return (Mask)_mm_cmpunord_pd(x, y);
#endif
    return (x != x) | (y != y);
  }

  static uint64_t BitsOf(Mask mask) {
#if SEPARATIONFACTOR_AVX2
    if constexpr (kIsFloat) return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
    if constexpr (kIsDouble) return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)mask));
    if constexpr (sizeof(Lane) == 2) {
      const __m128i high = _mm256_extracti128_si256((__m256i)mask, 1);
      return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128((__m256i)mask), high)));
    }
#elif defined(__SSE2__)
    if constexpr (kIsFloat) return static_cast<uint32_t>(_mm_movemask_ps((__m128)mask));
    if constexpr (kIsDouble) return static_cast<uint32_t>(_mm_movemask_pd((__m128d)mask));
    if constexpr (sizeof(Lane) == 2) {
      return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16((__m128i)mask, _mm_setzero_si128())));
    }
#else
    uint64_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint64_t>(mask[i] & 1) << i;
    return bits;
#endif
  }
  static Mask MaskOf(uint64_t bits) {
    const IntVec lane_bit = SetInteger(1) << Iota();
    return (SetInteger(static_cast<Integer>(bits)) & lane_bit) != 0;
  }
  static Mask And(Mask a, Mask b) { return a & b; }
  static Mask AndNot(Mask a, Mask b) { return a & ~b; }

  static Vec Blend(Mask mask, Vec if_set, Vec if_not) { return mask ? if_set : if_not; }
  static Vec ZeroUnless(Mask mask, Vec vec) { return (Vec)((IntVec)vec & mask); }

#if SEPARATIONFACTOR_AVX2
  struct Counter {
    int64_t count = 0;
    void Add(Mask mask) {
      // Counts two bits per 16-bit lane.
      if constexpr (sizeof(Lane) == 2) {
        count += __builtin_popcount(static_cast<uint32_t>(_mm256_movemask_epi8((__m256i)mask)));
      } else {
        count += __builtin_popcount(static_cast<uint32_t>(BitsOf(mask)));
      }
    }
    int64_t Total() const { return sizeof(Lane) == 2 ? count / 2 : count; }
  };
#else
  // The baseline has no population count.
  struct Counter {
    int64_t count = 0;
    int adds = 0;
    IntVec lanes{};
    void Add(Mask mask) {
      lanes -= mask;
      if (sizeof(Lane) == 2 && ++adds == INT16_MAX) Flush();
    }
    void Flush() {
      for (int i = 0; i < kLanes; ++i) count += lanes[i];
      lanes = IntVec{};
      adds = 0;
    }
    int64_t Total() {
      Flush();
      return count;
    }
  };
#endif

  static int Compress(Lane* to, Mask mask, Vec vec) {
#if SEPARATIONFACTOR_AVX2
    if constexpr (sizeof(Lane) == 2) {
      const auto bits = static_cast<uint32_t>(BitsOf(mask));
      const int low_count = __builtin_popcount(bits & 0xFF);
      Compress8(to, bits & 0xFF, _mm256_castsi256_si128((__m256i)vec));
      Compress8(to + low_count, bits >> 8, _mm256_extracti128_si256((__m256i)vec, 1));
      return __builtin_popcount(bits);
    } else {
      // A 64-bit lane is treated as two 32-bit lanes.
      const auto bits = static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask));
      const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kSetBits.of[bits])));
      Store(to, (Vec)_mm256_permutevar8x32_epi32((__m256i)vec, order));
      return __builtin_popcount(bits) * 4 / static_cast<int>(sizeof(Lane));
    }
#else
    uint64_t bits = BitsOf(mask);
    int count = 0;
    for (; bits != 0; bits &= bits - 1) to[count++] = vec[__builtin_ctzll(bits)];
    return count;
#endif
  }
#if SEPARATIONFACTOR_AVX2
  static void Compress8(Lane* to, uint32_t bits, __m128i vec) {
    // Each 16-bit lane is two bytes of the shuffle.
    const __m128i order = _mm_cvtsi64_si128(static_cast<int64_t>(kSetBits.of[bits]));
    const __m128i first = _mm_add_epi8(order, order), second = _mm_add_epi8(first, _mm_set1_epi8(1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(vec, _mm_unpacklo_epi8(first, second)));
  }
#endif
#endif

  // Packs the upper halves of 32-bit lanes. Within each 16 bytes, those of `low` come first. Inverse of Interleave<2>.
  template <class WideVec>
  static Vec PackUpper(WideVec low, WideVec high) {
#if SEPARATIONFACTOR_AVX512
    return (Vec)_mm512_packs_epi32((__m512i)(low >> 16), (__m512i)(high >> 16));
#elif SEPARATIONFACTOR_AVX2
    return (Vec)_mm256_packs_epi32((__m256i)(low >> 16), (__m256i)(high >> 16));
#elif defined(__SSE2__)
    return (Vec)_mm_packs_epi32((__m128i)(low >> 16), (__m128i)(high >> 16));
#else
    return Shuffle<1, 3, 5, 7, 9, 11, 13, 15>((Vec)low, (Vec)high);
#endif
  }

  // Returns the lanes with a >= b, for a and b without NaN. May return false where b is the smallest integer.
  template <class Lanes>
  static Mask AtLeast(Lanes a, Lanes b) {
    constexpr bool kIsInteger = kHasIntegerLanes<Lanes>;
#if SEPARATIONFACTOR_AVX512
    if constexpr (kIsFloat) {
      if constexpr (kIsInteger) return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b);
      return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
    } else {
      if constexpr (kIsInteger) return _mm512_cmpge_epi64_mask((__m512i)a, (__m512i)b);
      return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OQ);
    }
#else
    // There is one instruction for integer "greater" and none for "greater or equal".
    if constexpr (kIsInteger) return a > AddWrapped(b, SetInteger(-1));
    return a >= b;
#endif
  }

  // Returns count + (mask ? amount : 0).
  static IntVec AddIf(IntVec count, Mask mask, IntVec amount) {
#if SEPARATIONFACTOR_AVX512
    if constexpr (kIsFloat) {
      return (IntVec)_mm512_mask_add_epi32((__m512i)count, mask, (__m512i)count, (__m512i)amount);
    } else {
      return (IntVec)_mm512_mask_add_epi64((__m512i)count, mask, (__m512i)count, (__m512i)amount);
    }
#else
    return count + (mask & amount);
#endif
  }

  // Fills a vector with blocks of 16 bytes that lie `stride` bytes apart.
  static Vec LoadQuarters(const char* from, int64_t stride) {
#if SEPARATIONFACTOR_AVX512
    const auto load = [&](int part) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + part * stride)); };
    __m512i vec = _mm512_castsi128_si512(load(0));
    vec = _mm512_inserti32x4(vec, load(1), 1);
    vec = _mm512_inserti32x4(vec, load(2), 2);
    return (Vec)_mm512_inserti32x4(vec, load(3), 3);
#elif SEPARATIONFACTOR_AVX2
    const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return (Vec)_mm256_inserti128_si256(low, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + stride)), 1);
#else
    (void)stride;
    return Load(from);
#endif
  }

  // Stores the vector's blocks of 16 bytes `stride` bytes apart.
  static void StoreQuarters(char* to, int64_t stride, Vec vec) {
#if SEPARATIONFACTOR_AVX512
    const auto store = [&](int part, __m128i bits) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + part * stride), bits);
    };
    const auto bits = (__m512i)vec;
    store(0, _mm512_castsi512_si128(bits));
    store(1, _mm512_extracti32x4_epi32(bits, 1));
    store(2, _mm512_extracti32x4_epi32(bits, 2));
    store(3, _mm512_extracti32x4_epi32(bits, 3));
#elif SEPARATIONFACTOR_AVX2
    const auto bits = (__m256i)vec;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(bits));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + stride), _mm256_extracti128_si256(bits, 1));
#else
    (void)stride;
    Store(to, vec);
#endif
  }

  // Within each 16 bytes, interleaves the lower or upper `kBytes`-wide elements of a and b, as UNPCKLPS does.
  template <int kBytes, bool kUpper>
  static Vec Interleave(Vec a, Vec b) {
    return MakeInterleave<kBytes, kUpper>(a, b, std::make_integer_sequence<int, kLanes>());
  }
  template <int kBytes, bool kUpper, int... kIndices>
  static Vec MakeInterleave(Vec a, Vec b, std::integer_sequence<int, kIndices...>) {
    constexpr int kPart = 16 / sizeof(Lane);      // lanes in 16 bytes
    constexpr int kUnit = kBytes / sizeof(Lane);  // lanes in an element
    constexpr auto source = [](int i) {
      const int part = i / kPart * kPart, element = i % kPart / kUnit, lane = i % kUnit;
      return part + (kUpper ? kPart / 2 : 0) + element / 2 * kUnit + lane + (element % 2 ? kLanes : 0);
    };
    return Shuffle<source(kIndices)...>(a, b);
  }

  template <int kHalf, int... kIndices>
  static Vec Swap(Vec vec, std::integer_sequence<int, kIndices...>) {
    return Shuffle<(kIndices ^ kHalf)...>(vec, vec);
  }
  template <int kHalf = kLanes / 2>
  static Lane ReduceMax(Vec vec) {
    if constexpr (kHalf == 0) {
      return vec[0];
    } else {
      return ReduceMax<kHalf / 2>(Max(Swap<kHalf>(vec, std::make_integer_sequence<int, kLanes>()), vec));
    }
  }
  template <int kHalf = kLanes / 2>
  static Lane ReduceMin(Vec vec) {
    if constexpr (kHalf == 0) {
      return vec[0];
    } else {
      return ReduceMin<kHalf / 2>(Min(Swap<kHalf>(vec, std::make_integer_sequence<int, kLanes>()), vec));
    }
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SIMD_INL_H_
