// Transposes 16 bytes each of a vector of rows, in registers.

#ifndef SEPARATIONFACTOR_CORE_CPU_TRANSPOSE_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_TRANSPOSE_INL_H_

#include <cstdint>

#include "core/cpu/simd-inl.h"

namespace separationfactor {
namespace {

// Rows are in memory; in a column each lane belongs to another row. A part is 16 bytes of each row: kPart columns of
// kElement bytes.
template <class Number>
struct Transposer {
  using Wide = Simd<Number>;
  using Vec = typename Wide::Vec;
  static constexpr int kElement = sizeof(Number), kPart = 16 / kElement;

  // Pointers to the first kPart rows of a batch. The other rows lie multiples of kPart rows after them.
  template <class Char>
  struct FirstRows {
    FirstRows(Char* first, int64_t row_bytes) {
      for (int row = 0; row < kPart; ++row) {
        of[row] = first + row * row_bytes;
        // Hides the address from the compiler, which otherwise spills one offset per row and group.
        __asm__("" : "+r"(of[row]));
      }
    }
    Char* of[kPart];
  };

  // Loads columns from 16 bytes of each row. StorePart does the reverse. `stride` is the size of kPart rows.
  [[gnu::always_inline]] static void LoadPart(const FirstRows<const char>& rows, int64_t offset, int64_t stride,
                                              Vec (&part)[kPart]) {
    for (int row = 0; row < kPart; ++row) part[row] = Wide::LoadQuarters(rows.of[row] + offset, stride);
    TransposeInPlace(part);
  }
  [[gnu::always_inline]] static void StorePart(Vec (&part)[kPart], const FirstRows<char>& rows, int64_t offset,
                                               int64_t stride) {
    TransposeInPlace(part);
    for (int row = 0; row < kPart; ++row) Wide::StoreQuarters(rows.of[row] + offset, stride, part[row]);
  }

  // Transposes 16 bytes each of kPart rows. It is its own inverse.
  static void TransposeInPlace(Vec (&part)[kPart]) {
    if constexpr (kPart == 2) {
      const Vec first = part[0];
      part[0] = Wide::template Interleave<8, false>(first, part[1]);
      part[1] = Wide::template Interleave<8, true>(first, part[1]);
    } else {
      const Vec low01 = Wide::template Interleave<4, false>(part[0], part[1]);
      const Vec high01 = Wide::template Interleave<4, true>(part[0], part[1]);
      const Vec low23 = Wide::template Interleave<4, false>(part[2], part[3]);
      const Vec high23 = Wide::template Interleave<4, true>(part[2], part[3]);
      part[0] = Wide::template Interleave<8, false>(low01, low23);
      part[1] = Wide::template Interleave<8, true>(low01, low23);
      part[2] = Wide::template Interleave<8, false>(high01, high23);
      part[3] = Wide::template Interleave<8, true>(high01, high23);
    }
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_TRANSPOSE_INL_H_
