// Scales rows by a bitmask.

#ifndef SEPARATIONFACTOR_CORE_CPU_SCALE_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SCALE_INL_H_

#include <cstdint>

#include "core/cpu/bitmask-inl.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/write_packed-inl.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

template <class T, bool kMaskOnly>
void ScaleRow(const typename T::Bits* v, typename T::Bits* out, const uint8_t* selected, int64_t n,
              const Products<T>& products) {
  using S = typename Products<T>::S;
  using Vec = typename S::Vec;
  constexpr int kLanes = S::kLanes;
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    const uint64_t bits = LoadBits(selected + i / 8, kBlock);
    if (kMaskOnly && bits == 0) {
      // Does not read v where nothing is selected.
#pragma GCC unroll 8
      for (int j = 0; j < kBlock; j += kLanes) S::Store(out + i + j, Vec{});
      continue;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kBlock; j += kLanes) {
      S::Store(out + i + j, products.template Product<kMaskOnly>(S::Load(v + i + j), S::MaskOf(bits >> j)));
    }
  }
  if (i == n) return;
  const uint64_t bits = LoadBits(selected + i / 8, static_cast<int>(n - i));
  for (int j = 0; i + j < n; j += kLanes) {
    const int count = static_cast<int>(Smaller(kLanes, n - i - j));
    const Vec raw = count == kLanes ? S::Load(v + i + j) : S::LoadFirst(v + i + j, count);
    const Vec product = products.template Product<kMaskOnly>(raw, S::MaskOf(bits >> j));
    count == kLanes ? S::Store(out + i + j, product) : S::StoreFirst(out + i + j, product, count);
  }
}

// Scales rows shorter than a block as one long row.
template <class T, bool kMaskOnly>
void ScaleShortRows(const ScaleSelectedArgs& args, int64_t begin, int64_t end, const Products<T>& products) {
  const auto n = static_cast<int>(args.n);
  const auto bytes = static_cast<int>(BitmaskBytes(n));
  PackedWriter<T, kMaskOnly> writer(static_cast<const typename T::Bits*>(args.v) + begin * n,
                                    static_cast<typename T::Bits*>(args.out) + begin * n, products);
  const uint64_t valid = (uint64_t{1} << n) - 1;
  const uint8_t* selected = args.selected + begin * bytes;
  const uint8_t* const selected_end = args.selected + end * bytes;
  // Reads a whole word as long as it lies inside the bitmask.
  for (; selected + 8 <= selected_end; selected += bytes) writer.Add(LoadBits(selected, kBlock) & valid, n);
  for (; selected < selected_end; selected += bytes) writer.Add(LoadBits(selected, n), n);
  writer.Finish();
}

template <class T>
void ScaleRows(const ScaleSelectedArgs& args, int64_t begin, int64_t end) {
  const Products<T> products(args.separation, args.suppression);
  if (args.n < kBlock) {
    const auto scale = products.MaskOnly() ? ScaleShortRows<T, true> : ScaleShortRows<T, false>;
    scale(args, begin, end, products);
    return;
  }
  const auto scale = products.MaskOnly() ? ScaleRow<T, true> : ScaleRow<T, false>;
  for (int64_t row = begin; row < end; ++row) {
    scale(static_cast<const typename T::Bits*>(args.v) + row * args.n,
          static_cast<typename T::Bits*>(args.out) + row * args.n, args.selected + row * BitmaskBytes(args.n), args.n,
          products);
  }
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SCALE_INL_H_
