// Words of a bitmask: each holds the bits of a block of 64 entries.

#ifndef SEPARATIONFACTOR_CORE_CPU_BITMASK_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_BITMASK_INL_H_

#include <cstdint>

#include "core/cpu/kernels.h"

namespace separationfactor {
namespace {

// Returns the lowest `count` set bits, or all set bits if there are fewer.
inline uint64_t LowestBits(uint64_t bits, int64_t count) {
  if (__builtin_popcountll(bits) <= count) return bits;
  uint64_t rest = bits;
  for (; count > 0; --count) rest &= rest - 1;
  return bits ^ rest;
}

constexpr int kBlock = 64;  // entries of a block
static_assert(Segments::kGranularity % kBlock == 0, "a segment has whole blocks");

inline void StoreBits(uint8_t* selected, uint64_t bits, int count) {
  // All supported machines are little-endian.
  if (count == kBlock) {
    __builtin_memcpy(selected, &bits, 8);
  } else {
    __builtin_memcpy(selected, &bits, (count + 7) / 8);
  }
}
inline uint64_t LoadBits(const uint8_t* selected, int count) {
  uint64_t bits = 0;
  if (count == kBlock) {
    __builtin_memcpy(&bits, selected, 8);
  } else {
    __builtin_memcpy(&bits, selected, (count + 7) / 8);
  }
  return bits;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_BITMASK_INL_H_
