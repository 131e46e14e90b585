// Candidates for the k greatest entries of a row: a number and its index in one integer, whose order is the order of
// selection.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_CANDIDATES_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_CANDIDATES_H_

#include <cstdint>
#include <type_traits>

#include "core/types.h"

namespace separationfactor {
namespace {

// T is Float32 or Float64.
template <class T>
struct Candidate {
  using Number = typename T::Number;
  using Bits = typename T::Bits;
  using Order = std::conditional_t<sizeof(Bits) == 4, uint64_t, unsigned __int128>;

  Order order;  // of the number, then of the lower index

  static Candidate Make(Number number, int64_t index) {
    const Bits key = Key<T, Score::kValue>(BitCast<Bits>(number));
    return {static_cast<Order>(key) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index))};
  }
  int32_t Index() const { return static_cast<int32_t>(~static_cast<uint32_t>(order)); }
  // The number, or the zero or the NaN that ranks like it.
  Number ToNumber() const {
    constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    const Bits key = static_cast<Bits>(order >> 32);
    return BitCast<Number>(static_cast<Bits>((key & kSign) != 0 ? key & ~kSign : ~key));
  }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_CANDIDATES_H_
