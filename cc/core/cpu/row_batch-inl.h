// A batch of rows: as many as a vector has lanes.

#ifndef SEPARATIONFACTOR_CORE_CPU_ROW_BATCH_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_ROW_BATCH_INL_H_

#include <cstdint>

#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// Each lane of a vector is a row and each vector is a column, so no operation crosses lanes.
template <class T, Score kScore>
struct RowBatch {
  using L = Scored<T, kScore>;
  using Bits = typename T::Bits;
  using Wide = Simd<typename T::Number>;
  using Vec = typename Wide::Vec;
  using IntVec = typename Wide::IntVec;
  using Integer = typename Wide::Integer;
  using Mask = typename Wide::Mask;
  static constexpr int kRows = Wide::kLanes;

  struct Batch {
    const Bits* x;
    Bits* y;
    uint8_t* selected;
    int rows, n;
  };
  // Returns the batch that starts at `row`. The last batch may have fewer than kRows rows.
  static Batch BatchAt(const SeparateArgs& args, int64_t row, int64_t end) {
    return {static_cast<const Bits*>(args.x) + row * args.n, static_cast<Bits*>(args.y) + row * args.n,
            args.selected + row * BitmaskBytes(args.n), static_cast<int>(Smaller(kRows, end - row)),
            static_cast<int>(args.n)};
  }

  // Writes the bits of each row as a word of the bitmask.
  template <class Word>
  static void WriteWords(const Batch& batch, IntVec row_bits) {
    typedef Word Words __attribute__((vector_size(kRows * sizeof(Word))));
    const Words words = __builtin_convertvector(row_bits, Words);
    if (batch.rows == kRows) {
      __builtin_memcpy(batch.selected, &words, sizeof(words));
    } else {
      __builtin_memcpy(batch.selected, &words, batch.rows * sizeof(Word));
    }
  }

  // Whether any lane of the mask, 0 or -1, is set.
  static bool Any(IntVec mask) { return Wide::BitsOf(Wide::Unordered((Vec)mask, (Vec)mask)) != 0; }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_ROW_BATCH_INL_H_
