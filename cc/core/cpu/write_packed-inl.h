// Writes short rows for given bits.

#ifndef SEPARATIONFACTOR_CORE_CPU_WRITE_PACKED_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_WRITE_PACKED_INL_H_

#include <cstdint>

#include "core/cpu/bitmask-inl.h"
#include "core/cpu/products-inl.h"

namespace separationfactor {
namespace {

// Writes the products of consecutive rows for given selection bits. Collects the bits of several rows into blocks of
// 64, because the rows have no gaps.
template <class T, bool kMaskOnly>
class PackedWriter {
 public:
  using S = typename Products<T>::S;
  using Vec = typename S::Vec;
  using Bits = typename T::Bits;

  PackedWriter(const Bits* from, Bits* to, const Products<T>& products) : from_(from), to_(to), products_(products) {}

  // Adds the bits of the next `count` entries, 1 <= count <= 64.
  void Add(uint64_t bits, int count) {
    word_ |= bits << filled_;
    filled_ += count;
    if (filled_ < kBlock) return;
    Block(kBlock);
    filled_ -= kBlock;
    word_ = filled_ > 0 ? bits >> (count - filled_) : 0;
  }
  void Finish() {
    if (filled_ > 0) Block(filled_);
  }

 private:
  // Writes the `count` entries of a block.
  void Block(int count) {
    int j = 0;
#pragma GCC unroll 8
    for (; j + S::kLanes <= count; j += S::kLanes) {
      const Vec raw = S::Load(from_ + j);
      S::Store(to_ + j, products_.template Product<kMaskOnly>(raw, S::MaskOf(word_ >> j)));
    }
    if (j < count) {
      const Vec raw = S::LoadFirst(from_ + j, count - j);
      S::StoreFirst(to_ + j, products_.template Product<kMaskOnly>(raw, S::MaskOf(word_ >> j)), count - j);
    }
    from_ += count;
    to_ += count;
  }

  const Bits* from_;
  Bits* to_;
  const Products<T>& products_;
  uint64_t word_ = 0;
  int filled_ = 0;
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_WRITE_PACKED_INL_H_
